# SPDX-License-Identifier: Apache-2.0
"""Sets a deployment up, trains it, and hands over the session."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from splitguard.data.augment import augment
from splitguard.data.rows import Data
from splitguard.engine.assembly import make_loop
from splitguard.engine.cost import measure
from splitguard.engine.cut import SplitModel, cut_shapes, split
from splitguard.engine.defense import Defense
from splitguard.engine.deploy import bind, freeze
from splitguard.engine.loop import Loop, Progress
from splitguard.engine.parties import Surroundings
from splitguard.engine.placement import Placement, resolve
from splitguard.engine.provisos import in_session
from splitguard.engine.roles import ClientAttack, OnlineAttack, ServerAttack
from splitguard.engine.session import Session
from splitguard.engine.threat import Labels, Mode, Profile
from splitguard.engine.training import Training
from splitguard.engine.transcript import Keep, Transcript
from splitguard.errors import NotSupported
from splitguard.seeding import generator

__all__ = ["train"]


def train(
    module: nn.Module,
    data: Data,
    *,
    mode: Mode = Mode.VANILLA,
    cut: str | tuple[str, ...] | None = None,
    labels: Labels | None = None,
    defense: Defense | None = None,
    training: Training | None = None,
    seed: int = 0,
    active: ServerAttack | ClientAttack | None = None,
    beside: Sequence[OnlineAttack] = (),
    profile: Profile = Profile.ACTIVE,
    adaptive: bool = True,
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Session:
    """Trains ``module`` on ``data`` by split learning; the module itself is trained.

    Args:
        module: the whole network.
        data: the rows, dealt to clients.
        mode: how the parties take turns.
        cut: a layer, or two for a tail at the client; see `resolve`.
        labels: who owns the labels; None means the client, who sends them unless it holds a tail.
        defense: one instance a session; None is undefended.
        training: the settings.
        seed: of everything drawn: batch order, layers that draw, the defense's noise.
        active: an attack in the server's or in client 0's seat.
        beside: attacks that watch and change nothing.
        profile: the strongest adversary that active and watching attacks may be.
        adaptive: whether they may use what they know of the defense.
        checkpoint: a file; an existing one is gone on from, to the same bits.
        progress: called every few rounds, and at the end of each epoch.

    Raises:
        Diverged: if a loss is not finite.
        BadCut, BadSetting, NotSupported: before any private row is trained on. What a defense or an attack refuses, and
            the checkpoint of another session, is only found once a frozen head has been pre-trained.
    """
    began = time.perf_counter()
    training = training or Training()
    defense = defense if defense is not None else Defense()
    if mode is Mode.CENTRALIZED and (type(defense) is not Defense or active or beside):
        raise NotSupported("centralized training has no cut to defend or attack; use mode vanilla")
    augment(data.train.inputs[:0], training.augment, generator(seed, "unused"))  # refuses what is no image
    place = resolve(module, data.input_shape, mode=mode, cut=cut, labels=labels, defense=defense)
    with _threads(training.threads):
        network = defense.wrap(split(module, place.cuts), generator(seed, "wrap"))
        shapes = tuple(cut_shapes(network, data.input_shape))
        costs = _costs(network, data)
        device = training.resolve_device()
        around = Surroundings(device, training.precision)
        network.to(device)
        aux_accuracy = freeze(network, data, training, around, seed) if training.head == "frozen" else None
        bind(defense, network, data, shapes, mode=mode, place=place, training=training)
        network.train()
        if training.head == "frozen":
            network.head.eval()  # its normalisation layers are fixed, too
        if training.precision == "float64":
            network, data = network.double(), data.double()
        session = Session(
            data=data,
            mode=mode,
            labels=place.labels,
            cuts=place.cuts,
            cut_shapes=shapes,
            training=training,
            seed=seed,
            split=network,
            defense=defense,
            transcript=Transcript(_keep(data, place, training, defense)),
            history=[],
            costs=costs,
        )
        loop = make_loop(session, around, active, beside, profile, adaptive=adaptive)
        loop.run(checkpoint, progress)
        loop.query(data.query)
    return _finished(session, loop, aux_accuracy, began)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """A block with so many torch threads; the number is part of the results, since sums round in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _costs(network: SplitModel, data: Data) -> dict[str, float]:
    """What each party computes and holds; forward FLOPs per sample."""
    cost = measure(network, data.input_shape)
    return {
        "client_params": cost.client_params,
        "server_params": cost.server_params,
        "client_flops": cost.client_flops,
        "server_flops": cost.server_flops,
    }


def _keep(data: Data, place: Placement, training: Training, defense: Defense) -> Keep:
    """What is recorded: all victims, and client 0's rows of one epoch where somebody is not told their labels."""
    client = 0 if place.labels is not Labels.SENT or defense.overrides("on_labels") else -1
    epoch = min(training.context_epoch, max(training.epochs - 1, 0))
    return Keep(torch.cat([data.members, data.query.ids]), client=client, epoch=epoch)


def _finished(session: Session, loop: Loop, aux_accuracy: float | None, began: float) -> Session:
    """Fills in what the training brought."""
    network = session.split.cpu().eval()
    session.history = loop.history
    session.accuracy = None if not loop.history else loop.history[-1]["accuracy"]
    session.auc = None if not loop.history else loop.history[-1].get("auc")
    session.aux_accuracy = aux_accuracy
    session.guarantees = in_session(session.defense.privacy(), session.training, len(session.data.train))
    session.alarms = loop.alarms
    crossed = {f"bytes_{k}": float(v) for k, v in loop.link.bytes.items()}
    seconds = loop.earlier + time.perf_counter() - began
    session.costs = {**session.costs, **crossed, "train_seconds": seconds}
    session.digest = digest(network)
    return session


def digest(module: nn.Module) -> str:
    """Hash of all parameters and buffers, 16 hex digits."""
    out = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        out.update(name.encode())
        out.update(value.detach().cpu().contiguous().numpy().tobytes())
    return out.hexdigest()[:16]
