# SPDX-License-Identifier: Apache-2.0
"""Runs a plan: trainings, then attacks, side by side; what breaks becomes a failed record and the rest goes on."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from typing import Any

from splitguard.errors import SplitguardError
from splitguard.matrix.display import Display
from splitguard.matrix.outcome import Outcome
from splitguard.matrix.plan import Plan
from splitguard.matrix.process import Trouble
from splitguard.matrix.record import Record, Value, phases
from splitguard.matrix.resolve import Resolved
from splitguard.matrix.store import Store
from splitguard.matrix.work import AttackJob, Done, SessionJob, failure

__all__ = ["run_plan"]


def run_plan(plan: Plan, store: Store, *, jobs: int, environment: Mapping[str, Any], progress: bool) -> None:
    """Does what the plan says. Whoever calls holds the folder's lock.

    Each result is written by the worker that has it, so that at any moment all that is finished is on disk.

    Args:
        plan: made for this folder.
        store: the run folder.
        jobs: how many workers; each computes with the number of threads that its cell says, so that numbers do not
            depend on this.
        environment: for the records.
        progress: whether to show bars.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the workers have ended; what was finished stays.
        SplitguardError: if the system killed a worker; likewise.
    """
    me = os.getpid()
    try:
        with Display(progress, len(plan.trainings), len(plan.attacks)) as display:
            sessions = [SessionJob(store.folder, t.cell, t.riders, t.replay, environment, me) for t in plan.trainings]
            broken = {}
            for done in _each(sessions, jobs):
                display.trained(done)
                if done.trouble is not None and store.outcome(done.key) is None:  # a replay breaks nothing
                    broken[done.key] = done.trouble
            display.begin_attacks()
            attacks = []
            for cell, phase in plan.attacks:
                trouble = broken.get(cell.session_key())
                if trouble is None:
                    attacks.append(AttackJob(store.folder, cell, phase, environment, me))
                else:
                    store.write(failure(cell, phase, _of_training(trouble), environment))
                    display.attacked(Done(cell.key(), cell.label(), trouble))
            for done in _each(attacks, jobs):
                display.attacked(done)
    finally:
        _complete(plan.cells, store, environment)


def _each(tasks: Sequence[SessionJob] | Sequence[AttackJob], jobs: int) -> Iterator[Done]:
    """Runs all tasks, ``jobs`` at a time, and hands over each as it is done."""
    if not tasks:
        return
    if jobs == 1:
        for task in tasks:
            yield task()
        return
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
    try:
        with closing(parallel(delayed(_call)(task) for task in tasks)) as results:
            yield from results
    except BrokenProcessPool:
        raise SplitguardError(
            "a worker process was killed from outside, most likely for want of memory. What was finished is kept: run "
            f"again, with fewer jobs than {jobs} if it happens again"
        ) from None


def _call(task: SessionJob | AttackJob) -> Done:
    return task()


def _of_training(trouble: Trouble) -> Trouble:
    return replace(trouble, reason=f"its training: {trouble.reason}")


def _complete(cells: Sequence[Resolved], store: Store, environment: Mapping[str, Any]) -> None:
    """Writes the records of refused cells, and what a record could not know before another training was done."""
    outcomes = functools.cache(store.outcome)
    for resolved in cells:
        for phase in phases(resolved.cell.goal):
            found = store.record(resolved.cell, phase)
            record = found
            if resolved.reason is not None and (found is None or found.reason != resolved.reason):
                record = Record(resolved.cell, phase, "refused", resolved.reason, environment=environment)
            if record is None:
                continue
            whole = _completed(record, outcomes) if resolved.deployable else record
            if found is None or _said(whole) != _said(found):
                store.write(whole)


def _completed(record: Record, outcomes: Callable[[str], Outcome | None]) -> Record:
    """With what the sessions that it speaks of say; what they said before stays where they are gone."""
    cell, values, extra = record.cell, dict(record.values), dict(record.extra)
    undefended = outcomes(cell.twin().session_key())

    def columns(outcome: Outcome) -> dict[str, Value]:
        found = outcome.columns(record.phase)
        return {**found, "accuracy_drop": _drop(found["accuracy"], undefended)}

    own = outcomes(cell.session_key())
    if own is not None and record.status == "refused":
        values |= columns(own)
        extra |= own.extra
    elif undefended is not None or "accuracy_drop" not in values:
        values["accuracy_drop"] = _drop(values.get("accuracy"), undefended)
    honest = outcomes(cell.honest().session_key()) if cell.active else None
    if honest is not None:
        extra["honest"] = {"values": columns(honest), "extra": honest.extra}
    return replace(record, values=values, extra=extra)


def _said(record: Record) -> tuple[Any, ...]:
    """What a record says, whoever wrote it when."""
    return record.status, record.reason, dict(record.values), dict(record.extra)


def _drop(accuracy: Value, twin: Outcome | None) -> float | None:
    """How much test accuracy the defense costs; None if either is not known."""
    before = None if twin is None else twin.values["accuracy"]
    return float(before) - float(accuracy) if before is not None and accuracy is not None else None
