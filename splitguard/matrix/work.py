# SPDX-License-Identifier: Apache-2.0
"""What a worker does: trains one session or runs one attack, and writes the result as soon as it has it."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from splitguard.api import ATTACKS, Attack, ClientAttack, Defense, OnlineAttack, Profile, ServerAttack, build_defense
from splitguard.data import Data, load
from splitguard.engine.session import Session
from splitguard.engine.threat import Labels, Mode
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting, NotSupported
from splitguard.matrix.cell import Cell, canonical, digest
from splitguard.matrix.judge import judge
from splitguard.matrix.outcome import Outcome, session_outcome
from splitguard.matrix.process import Trouble, attempt, numeric_threads, stop_with_parent
from splitguard.matrix.record import Record, Value, phases
from splitguard.matrix.store import Store
from splitguard.models import make_model
from splitguard.seeding import generator

__all__ = ["AttackJob", "Done", "SessionJob", "failure"]


#: The session that this worker attacked last, by where it lies and when it was written.
_opened: dict[tuple[Path, int], Session] = {}


@dataclass(frozen=True)
class Done:
    """What became of a job.

    Attributes:
        key: of the session or cell.
        label: the same for people.
        trouble: what went wrong, if anything did.
        seconds: spent.
    """

    key: str
    label: str
    trouble: Trouble | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class SessionJob:
    """One training.

    Attributes:
        folder: of the run.
        cell: says what is trained.
        riders: attack cells that take part in it or watch it; they are scored as soon as it is over.
        replay: the session is stored already and is trained again for the riders; it must end at the same bits.
        environment: for the records.
        parent: process id of the run; the worker ends when that one does.
    """

    folder: Path
    cell: Cell
    riders: tuple[Cell, ...] = ()
    replay: bool = False
    environment: Mapping[str, Any] = field(default_factory=dict)
    parent: int = 0

    def __call__(self) -> Done:
        """Trains, stores the session, scores the riders."""
        stop_with_parent(self.parent)
        began, key = time.perf_counter(), self.cell.session_key()
        store = Store(self.folder)
        with numeric_threads(self.cell.training["threads"]):
            trouble = attempt(lambda: self._train(store, key))
            if trouble is not None:
                self._checkpoint(store).unlink(missing_ok=True)  # whatever was wrong, the next attempt starts afresh
            if trouble is not None and len(self.riders) > 1:
                return self._apart(store, began)
            if trouble is not None:
                for rider in self.riders:
                    for phase in phases(rider.goal):
                        store.write(failure(rider, phase, trouble, self.environment))
            if trouble is not None and self.riders and not self.cell.active and not self.replay:
                # A watching attack must not cost the others their session; what it ran into is told all the same.
                trouble = attempt(lambda: replace(self, riders=())._train(store, key)) or trouble
        return Done(key, self.cell.deployment(), trouble, time.perf_counter() - began)

    def _apart(self, store: Store, began: float) -> Done:
        """One training for each rider: which of them broke the one that they shared nobody knows."""
        key, trouble = self.cell.session_key(), None
        for rider in self.riders:
            stored = store.outcome(key) is not None
            done = replace(self, riders=(rider,), replay=stored)()
            trouble = trouble or done.trouble
        return Done(key, self.cell.deployment(), trouble, time.perf_counter() - began)

    def _train(self, store: Store, key: str) -> None:
        attacks = {rider.key(): _attack(rider) for rider in self.riders}
        online = [a for a in attacks.values() if isinstance(a, OnlineAttack)]
        seated = online[0] if self.cell.active else None
        data, module = _data(self.cell), _module(self.cell)
        session = train(
            module,
            data,
            mode=Mode(self.cell.mode),
            cut=self.cell.cuts,
            labels=Labels(self.cell.labels),
            defense=_defense(self.cell),
            training=Training.parse(self.cell.training),
            seed=self.cell.seed,
            active=seated if isinstance(seated, ServerAttack | ClientAttack) else None,
            beside=() if self.cell.active else online,
            profile=Profile.parse(self.riders[0].profile) if self.riders else Profile.ACTIVE,
            adaptive=self.riders[0].adaptive if self.riders else True,
            checkpoint=self._checkpoint(store),
        )
        outcome = session_outcome(session)
        if self.replay:
            _same_bits(store.outcome(key), session)
        else:
            store.save_session(key, session.save, outcome)
        for rider in self.riders:
            for phase in phases(rider.goal):
                _Trial(store, rider, phase, self.environment, outcome).run(lambda: session, attacks[rider.key()])
        self._checkpoint(store).unlink(missing_ok=True)

    def _checkpoint(self, store: Store) -> Path:
        return store.checkpoint(self.cell.session_key(), digest(sorted(rider.key() for rider in self.riders)))


@dataclass(frozen=True)
class AttackJob:
    """One attack on a stored session, in one phase."""

    folder: Path
    cell: Cell
    phase: str
    environment: Mapping[str, Any] = field(default_factory=dict)
    parent: int = 0

    def __call__(self) -> Done:
        """Loads the session, attacks, scores, writes the record."""
        stop_with_parent(self.parent)
        began, store = time.perf_counter(), Store(self.folder)
        outcome = store.outcome(self.cell.session_key())
        with numeric_threads(self.cell.training["threads"]):
            trial = _Trial(store, self.cell, self.phase, self.environment, outcome)
            trouble = trial.run(lambda: self._session(store))
        return Done(self.cell.key(), self.cell.label(), trouble, time.perf_counter() - began)

    def _session(self, store: Store) -> Session:
        """The session, which stays open for the next attack on it: what an attack is shown, it leaves alone."""
        folder = store.session(self.cell.session_key())
        written = folder, (folder / "session.json").stat().st_mtime_ns
        if written not in _opened:
            module, data, defense = _module(self.cell), _data(self.cell), _defense(self.cell)
            _opened.clear()
            _opened[written] = Session.load(folder, module=module, data=data, defense=defense)
        return _opened[written]


@dataclass(frozen=True)
class _Trial:
    """One attack in one phase, whose record is written whatever comes of it."""

    store: Store
    cell: Cell
    phase: str
    environment: Mapping[str, Any]
    outcome: Outcome | None

    def run(self, open_session: Callable[[], Session], attack: Attack | None = None) -> Trouble | None:
        """Attacks the session; an attack that rode on the training comes as it is."""
        trouble = attempt(lambda: self._score(open_session(), attack or _attack(self.cell)))
        if trouble is not None:
            record = failure(self.cell, self.phase, trouble, self.environment)
            self.store.write(replace(record, values=self._columns()))
        return trouble

    def _score(self, session: Session, attack: Attack) -> None:
        cell, phase = self.cell, self.phase
        # The session may have been opened for another cell, to whose attacker more labels were known, or fewer.
        view = session.view(
            attack,
            phase=phase,
            profile=Profile.parse(cell.profile),
            adaptive=cell.adaptive,
            known=cell.data.get("known", 1),
        )
        if len(view.ids) == 0:
            raise NotSupported(f"there are no {phase} victims that the {view.party} could attack; see data: victims")
        began = time.perf_counter()
        guess = attack.run(view, generator(cell.seed, "attack", cell.paired_key(), phase))
        seconds = time.perf_counter() - began
        least = attack.threat.after_reading(view.asked).profile(view.party, view.mode, view.labels)
        judged = judge(session, attack, view, guess)
        values = {**self._columns(), **judged.values, "attack_seconds": seconds}
        values["profile"] = str(view.profile if least is None else least)
        extra = {**judged.extra, **({} if self.outcome is None else self.outcome.extra)}
        self.store.write(Record(cell, phase, "ok", None, values, extra, self.environment), judged.arrays)

    def _columns(self) -> dict[str, Value]:
        return {} if self.outcome is None else self.outcome.columns(self.phase)


def failure(cell: Cell, phase: str, trouble: Trouble, environment: Mapping[str, Any]) -> Record:
    """The record of a cell that could not be run."""
    return Record(
        cell,
        phase,
        "refused" if trouble.refused else "failed",
        trouble.reason,
        extra={} if trouble.refused else {"traceback": trouble.trace},
        environment=environment,
    )


def _attack(cell: Cell) -> Attack:
    return ATTACKS.build(cell.attack.spec)


def _defense(cell: Cell) -> Defense:
    return build_defense([d.spec for d in cell.acting] or "none")


def _module(cell: Cell) -> nn.Module:
    data = _data(cell)
    return make_model(cell.model, input_shape=data.input_shape, classes=data.classes, seed=cell.seed)


def _data(cell: Cell) -> Data:
    return _drawn(canonical({k: v for k, v in cell.data.items() if k != "digest"}), cell.data.get("digest"), cell.seed)


@functools.lru_cache(maxsize=3)
def _drawn(spec: str, content: str | None, seed: int) -> Data:
    """Data sets are read once a worker and content, not once a job; nothing writes to them."""
    return load(json.loads(spec), seed=seed)


def _same_bits(stored: Outcome | None, session: Session) -> None:
    wanted = None if stored is None else stored.extra["digest"]
    if wanted != session.digest:
        raise BadSetting(
            f"the training was played again for an attack that watches it, and must end at the parameters {wanted}; it "
            f"ended at {session.digest}. It does on the same machine with the same torch; else run into a new folder"
        )
