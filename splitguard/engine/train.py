# SPDX-License-Identifier: Apache-2.0
"""Sets a deployment up, trains it, and hands over the session."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from splitguard.data.rows import Data, Rows
from splitguard.engine.cost import measure
from splitguard.engine.cut import SplitModel, cut_shapes, mixes_rows, split
from splitguard.engine.defense import Context, Defense, Deployment
from splitguard.engine.deployed import Deployed
from splitguard.engine.links import Link
from splitguard.engine.loop import Loop, Progress
from splitguard.engine.modes import SplitRound
from splitguard.engine.observers import Observer
from splitguard.engine.parties import Client, FedServer, Server, Stage, Surroundings
from splitguard.engine.placement import Placement, resolve
from splitguard.engine.pretrain import pretrain
from splitguard.engine.roles import ClientAttack, OnlineAttack, ServerAttack
from splitguard.engine.session import Session
from splitguard.engine.threat import Labels, Mode, Profile, refusal
from splitguard.engine.training import Training
from splitguard.engine.transcript import Keep, Transcript
from splitguard.engine.wire import Phase
from splitguard.errors import NotSupported
from splitguard.registry import settings_of
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
        checkpoint: a file; an existing one is gone on from, to the same bits.
        progress: called every few rounds.

    Raises:
        Diverged: if a loss is not finite.
        BadCut, BadSetting, NotSupported: before anything is trained.
    """
    training = training or Training()
    defense = defense if defense is not None else Defense()
    if mode is Mode.CENTRALIZED and (type(defense) is not Defense or active or beside):
        raise NotSupported("centralized training has no cut to defend or attack; use mode vanilla")
    place = resolve(module, data.input_shape, mode=mode, cut=cut, labels=labels, defense=defense)
    with _threads(training.threads):
        network = defense.wrap(split(module, place.cuts), generator(seed, "wrap"))
        shapes = tuple(cut_shapes(network, data.input_shape))
        costs = _costs(network, data)
        device = training.resolve_device()
        around = Surroundings(device, training.precision)
        network.to(device)
        aux_accuracy = _freeze(network, data, training, around, seed) if training.head == "frozen" else None
        _bind(defense, network, data, shapes, mode=mode, place=place, training=training)
        network.train()
        if training.head == "frozen":
            network.head.eval()  # its normalisation layers are fixed, too
        if training.precision == "float64":
            network, data = network.double(), _double(data)
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
            transcript=Transcript(_keep(data, place, training)),
            history=[],
            costs=costs,
        )
        loop = _loop(session, around, active, beside, profile)
        loop.run(checkpoint, progress)
        loop.query(data.query)
    return _finished(session, loop, aux_accuracy)


def _double(data: Data) -> Data:
    def wide(rows: Rows) -> Rows:
        return dataclasses.replace(rows, inputs=rows.inputs.double())

    return dataclasses.replace(
        data, train=wide(data.train), test=wide(data.test), aux=wide(data.aux), query=wide(data.query)
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """A block with so many torch threads; the number is part of the results, since sums round in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _freeze(network: SplitModel, data: Data, training: Training, around: Surroundings, seed: int) -> float | None:
    """Pre-trains all stages on auxiliary rows, fixes the head, and returns the accuracy reached so far."""
    network.train()
    pretrain(network, data.aux, training, around, seed)
    stages = tuple(module for _, module in network.stages)
    public = Deployed(stages, None, generator(seed, "unused"), around.device)
    accuracy = public.accuracy(data.test, Context(data.test.ids, -1, 0, 0, Phase.EVALUATION))
    network.head.eval().requires_grad_(False)
    return accuracy


def _costs(network: SplitModel, data: Data) -> dict[str, float]:
    """What each party computes and holds; forward FLOPs per sample."""
    cost = measure(network, data.input_shape)
    return {
        "client_params": cost.client_params,
        "server_params": cost.server_params,
        "client_flops": cost.client_flops,
        "server_flops": cost.server_flops,
    }


def _bind(
    defense: Defense,
    network: SplitModel,
    data: Data,
    shapes: tuple[tuple[int, ...], ...],
    *,
    mode: Mode,
    place: Placement,
    training: Training,
) -> None:
    """Tells the defense where it is deployed."""
    frozen = training.head == "frozen"
    head = copy.deepcopy(network.head).cpu().eval().requires_grad_(False)
    evaluations = training.epochs if training.evaluate == "epoch" else 1
    defense.bind(
        Deployment(
            mode=mode,
            labels=place.labels,
            cuts=place.cuts,
            input_shape=data.input_shape,
            cut_shapes=shapes,
            classes=data.classes,
            batch_size=training.batch_size,
            epochs=training.epochs,
            clients=len(data.clients),
            releases={Phase.TRAINING: training.epochs, Phase.EVALUATION: evaluations, Phase.QUERY: 1},
            aux=data.aux,
            head=head,
            head_frozen=frozen,
            mixing=() if frozen else tuple(mixes_rows(network.head, data.input_shape)),
        )
    )


def _keep(data: Data, place: Placement, training: Training) -> Keep:
    """What is recorded: all victims, and client 0's rows of one epoch where somebody is not told their labels."""
    client = 0 if place.labels is not Labels.SENT else -1
    epoch = min(training.context_epoch, max(training.epochs - 1, 0))
    return Keep(torch.cat([data.members, data.query.ids]), client=client, epoch=epoch)


def _loop(
    session: Session,
    around: Surroundings,
    active: ServerAttack | ClientAttack | None,
    beside: Sequence[OnlineAttack],
    profile: Profile,
) -> Loop:
    """The parties, the wire and the observers of one session."""
    data, training, network, defense = session.data, session.training, session.split, session.defense

    def observer(attack: OnlineAttack) -> Observer:
        party, _, reason = refusal(
            attack.threat, attack.goal, mode=session.mode, labels=session.labels, profile=profile
        )
        if party is None:
            raise NotSupported(f"{attack.name or type(attack).__name__}: {reason}")
        view = session.frame(attack, party, profile, Phase.TRAINING, data.members, True)
        return Observer(attack, view, generator(session.seed, "attack", attack.name), network.body)

    watching = [observer(a) for a in beside]
    acting = observer(active) if active is not None else None
    clients = _clients(session, around)
    server = Server(Stage(network.body, "body", training), around)
    link = Link()
    noise = generator(session.seed, "defense", device=around.device)
    if training.noise == "os":
        noise.seed()
    frozen = training.head == "frozen"
    in_seat = acting if isinstance(active, ServerAttack) else None
    first = clients[0]
    stages = (first.head.module, network.body) + ((first.tail.module,) if first.tail else ())
    loop = Loop(
        data=data,
        mode=session.mode,
        labels=session.labels,
        training=training,
        seed=session.seed,
        clients=clients,
        server=server,
        fed=FedServer(clients) if session.mode is Mode.SPLITFED else None,
        link=link,
        defense=defense,
        noise=noise,
        transcript=session.transcript,
        round=SplitRound(
            server, link, session.labels, defense=defense, generator=noise, active=in_seat, head_frozen=frozen
        ),
        around=around,
        observers=[*watching, *([acting] if acting else [])],
        deployed=Deployed(stages, None if session.mode is Mode.CENTRALIZED else defense, noise, around.device),
        fingerprint=_fingerprint(session, active, beside),
    )
    if acting is not None and isinstance(active, ClientAttack):
        clients[0].intercept = lambda grads: acting.client_grads(grads, loop.step)
    return loop


def _clients(session: Session, around: Surroundings) -> list[Client]:
    """The clients with their rows; in splitfed each has layers of its own, else all share what they hand on."""
    network, training, defense = session.split, session.training, session.defense

    def stages(*, own: bool) -> tuple[Stage, Stage | None]:
        head = copy.deepcopy(network.head) if own else network.head
        tail = copy.deepcopy(network.tail) if own else network.tail

        def make(module: nn.Module) -> torch.optim.Optimizer | None:
            return defense.optimizer(module, lambda ps: training.make_optimizer("head", ps))

        return Stage(head, "head", training, make), Stage(tail, "tail", training) if tail is not None else None

    shared = stages(own=False)
    parts = (session.data.train.ids,) if session.mode is Mode.CENTRALIZED else session.data.clients
    clients = []
    for number, ids in enumerate(parts):
        head, tail = stages(own=True) if session.mode is Mode.SPLITFED and number > 0 else shared
        clients.append(Client(number, session.data.train.of(ids), head, tail, around))
    return clients


def _fingerprint(session: Session, active: object | None, beside: Sequence[object]) -> str:
    """What a checkpoint must agree on with the session that goes on from it."""
    facts = [
        session.data.digest,
        session.mode,
        session.labels,
        session.cuts,
        dataclasses.asdict(session.training),
        session.seed,
        [
            (type(p).__name__, settings_of(p) if dataclasses.is_dataclass(p) else {})
            for p in (session.defense, active, *beside)
        ],
        {k: tuple(v.shape) for k, v in session.split.state_dict().items()},
    ]
    return hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode()).hexdigest()[:16]


def _finished(session: Session, loop: Loop, aux_accuracy: float | None) -> Session:
    """Fills in what the training brought."""
    network = session.split.cpu().eval()
    session.history = loop.history
    session.accuracy = None if not loop.history else loop.history[-1]["accuracy"]
    session.aux_accuracy = aux_accuracy
    session.guarantees = session.defense.privacy()
    session.alarms = loop.alarms
    crossed = {f"bytes_{k}": float(v) for k, v in loop.link.bytes.items()}
    session.costs = {**session.costs, **crossed, "train_seconds": loop.seconds}
    session.digest = digest(network)
    return session


def digest(module: nn.Module) -> str:
    """Hash of all parameters and buffers, 16 hex digits."""
    out = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        out.update(name.encode())
        out.update(value.detach().cpu().contiguous().numpy().tobytes())
    return out.hexdigest()[:16]
