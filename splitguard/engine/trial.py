# SPDX-License-Identifier: Apache-2.0
"""One attack on a toy task: what the contract of attacks is tried on."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import torch
from torch import Tensor

from splitguard.engine.promises import Broken
from splitguard.engine.roles import Attack, ClientAttack, Guess, OnlineAttack, ServerAttack
from splitguard.engine.session import Session
from splitguard.engine.threat import Labels, Mode, Profile, Seat, refusal
from splitguard.engine.toys import HalfTrue, Toy, federated, toy
from splitguard.engine.train import train
from splitguard.engine.view import View
from splitguard.errors import NotSupported
from splitguard.models import make_model
from splitguard.seeding import generator

__all__ = ["Run", "Trial"]

#: Deployments of the toy task; the first on which somebody can mount the attack, and which it takes, is used.
#: Labels that are sent are the true ones, but in the last.
TOYS = (
    (Mode.VANILLA, Labels.SENT, "conv1", False),
    (Mode.U_SHAPED, Labels.CLIENT, "conv1", False),
    (Mode.VANILLA, Labels.SERVER, "conv1", False),
    (Mode.VANILLA, Labels.SERVER, "logits", False),
    (Mode.SPLITFED, Labels.SENT, "conv1", False),
    (Mode.SPLITFED, Labels.CLIENT, "conv1..fc2", False),
    (Mode.VANILLA, Labels.SENT, "conv1", True),
)


@dataclass(frozen=True)
class Run:
    """One run of the attack.

    Attributes:
        attack, session, view, guess: the instance that ran, and what it attacked, saw and answered.
        touched: the global generators that it drew from or seeded.
        written: the parts of the view, and of the networks behind it, that it wrote to.
    """

    attack: Attack
    session: Session
    view: View
    guess: Guess
    touched: tuple[str, ...]
    written: tuple[str, ...]


class Trial:
    """An attack, and a small network trained on the toy task of its goal; each run is made once and kept.

    Args:
        make: a fresh instance of the attack, with the settings to run it with.
    """

    def __init__(self, make: Callable[[], Attack]) -> None:
        self.make = make

    @functools.cached_property
    def _places(self) -> list[tuple[Mode, Labels, str, bool]]:
        """The toy deployments on which somebody can mount the attack, the one in use first.

        Raises:
            Broken: if there is none.
        """
        attack, reasons, found = self.make(), [], []
        for mode, labels, cut, defended in TOYS:
            party, _, reason = refusal(
                attack.threat,
                attack.goal,
                mode=mode,
                labels=labels,
                profile=Profile.ACTIVE,
                labels_defended=defended,
            )
            if party is not None:
                found.append((mode, labels, cut, defended))
            reasons.append(f"{mode} with labels {labels}: {reason}")
        if not found:
            raise Broken("nobody can mount it on any toy deployment; " + "; ".join(dict.fromkeys(reasons)))
        return found

    @property
    def deployment(self) -> tuple[Mode, Labels]:
        """The toy deployment in use: the first on which somebody can mount the attack, and which it does not refuse."""
        return self._places[0][:2]

    def setting(self) -> tuple[Attack, Session, View]:
        """A fresh instance, a session that it watched or steered if that is its seat, and its view."""
        attack = self.make()
        where = (*self._places[0], federated() if self._places[0][0] is Mode.SPLITFED else toy(attack.goal))
        session = _trained(*where) if attack.seat is Seat.AFTER else _train(*where, attack)
        return attack, session, session.view(attack, profile=Profile.ACTIVE)

    @functools.cached_property
    def first(self) -> Run:
        """A run on a setting of its own; a deployment that the attack refuses gives way to the next."""
        while True:
            try:
                return self.again()
            except NotSupported:
                if len(self._places) == 1:
                    raise
                del self._places[0]

    def again(self) -> Run:
        """The same once more."""
        attack, session, view = self.setting()
        globals_before, parts_before = _globals(), _parts(view, session)
        guess = attack.run(view, generator(0, "contract"))
        globals_after, parts_after = _globals(), _parts(view, session)
        touched = tuple(n for n, state in globals_before.items() if globals_after[n] != state)
        written = tuple(n for n, state in parts_before.items() if parts_after[n] != state)
        return Run(attack, session, view, guess, touched, written)


@functools.cache
def _trained(mode: Mode, labels: Labels, cut: str, defended: bool, task: Toy) -> Session:
    """The session that serves every attack on this task which comes after it."""
    return _train(mode, labels, cut, defended, task)


def _train(mode: Mode, labels: Labels, cut: str, defended: bool, task: Toy, attack: Attack | None = None) -> Session:
    data = task.data
    return train(
        make_model("lenet", input_shape=data.input_shape, classes=data.classes, seed=0),
        data,
        mode=mode,
        labels=labels,
        cut=cut,
        defense=HalfTrue() if defended else None,
        training=task.training,
        active=attack if isinstance(attack, ServerAttack | ClientAttack) else None,
        beside=[attack] if isinstance(attack, OnlineAttack) and attack.seat is Seat.BESIDE else [],
    )


def _globals() -> dict[str, str]:
    """The global generators, hashed."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  # the global state is what is guarded
    states = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr((kind, np.asarray(keys).tobytes(), *rest)).encode(),
        "random": repr(random.getstate()).encode(),
    }
    return {name: hashlib.sha256(state).hexdigest() for name, state in states.items()}


def _parts(view: View, session: Session) -> dict[str, str]:
    """The tensors of a view, and of the networks and snapshots behind it, hashed part by part."""
    parts: dict[str, object] = {f.name.lstrip("_"): getattr(view, f.name) for f in fields(view)}
    parts |= {"network": session.split.state_dict(), "head snapshots": session.transcript.snapshots}
    out = {}
    for name, part in parts.items():
        found = hashlib.sha256()
        for tensor in _tensors(part):
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        out[name] = found.hexdigest() + (repr(part) if isinstance(part, str | int | tuple) else "")
    return out


def _tensors(part: object) -> Iterator[Tensor]:
    """The tensors in a tensor, a mapping, a sequence or a dataclass."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, dict | tuple | list):
        for value in part.values() if isinstance(part, dict) else part:
            yield from _tensors(value)
    elif is_dataclass(part):
        for f in fields(part):
            yield from _tensors(getattr(part, f.name))
