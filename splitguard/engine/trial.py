# SPDX-License-Identifier: Apache-2.0
"""One attack on a toy task: what the contract of attacks is tried on."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
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
from splitguard.seeding import derive, drawing, generator

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
        touched: the global generators that it drew from or seeded, while the session was trained too; what it drew from
            torch's there is hidden by a fork, so that `Trial.again` has to tell.
        written: the parts of the view, and of the networks behind it, that it wrote to; and the data of the task, if it
            did so while the session was trained or after.
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

    @functools.cached_property
    def first(self) -> Run:
        """A run on a setting of its own; a deployment that the attack refuses gives way to the next."""
        while True:
            try:
                return self._run()
            except NotSupported:
                if len(self._places) == 1:
                    raise
                del self._places[0]

    def again(self) -> Run:
        """The same once more, from other states of the global generators."""
        with _other_globals():
            return self._run()

    def _run(self) -> Run:
        """A fresh instance on a session that it watched or steered if that is its seat."""
        attack = self.make()
        task = federated() if self._places[0][0] is Mode.SPLITFED else toy(attack.goal)
        globals_before, data_before = _globals(), _hashed({"the task's data": task.data})
        where = (*self._places[0], task)
        session = _trained(*where) if attack.seat is Seat.AFTER else _train(*where, attack)
        view = session.view(attack, profile=Profile.ACTIVE)
        before = _parts(view, session) | data_before
        guess = attack.run(view, generator(0, "contract")).cpu()
        globals_after, after = _globals(), _parts(view, session) | _hashed({"the task's data": task.data})
        touched = tuple(n for n, state in globals_before.items() if globals_after[n] != state)
        written = tuple(n for n, state in before.items() if after[n] != state)
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


@contextlib.contextmanager
def _other_globals() -> Iterator[None]:
    """A block that begins with other states of the global generators; they are restored afterwards."""
    seed = derive(0, "other global states")
    numpy_before, random_before = np.random.get_state(), random.getstate()  # noqa: NPY002  # as in `_globals`
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
    try:
        with drawing(seed):
            yield
    finally:
        np.random.set_state(numpy_before)  # noqa: NPY002
        random.setstate(random_before)


def _parts(view: View, session: Session) -> dict[str, str]:
    """The tensors of a view, and of the networks and snapshots behind it, hashed part by part."""
    parts: dict[str, object] = {f.name.lstrip("_"): getattr(view, f.name) for f in fields(view)}
    parts |= {"network": session.split.state_dict(), "head snapshots": session.transcript.snapshots}
    return _hashed(parts)


def _hashed(parts: Mapping[str, object]) -> dict[str, str]:
    """The tensors of each part, hashed."""
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
