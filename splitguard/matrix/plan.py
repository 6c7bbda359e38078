# SPDX-License-Identifier: Apache-2.0
"""What must run, once each: trainings that cells share, then attacks; and what is refused, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from splitguard.api import ATTACKS, Mode, Seat
from splitguard.matrix.cell import Cell
from splitguard.matrix.estimate import Estimate
from splitguard.matrix.record import phases
from splitguard.matrix.resolve import Resolved
from splitguard.matrix.store import Store

__all__ = ["Plan", "Planned", "make_plan"]


@dataclass(frozen=True)
class Planned:
    """One training.

    Attributes:
        cell: says what is trained.
        riders: attack cells that take part in it or watch it.
        replay: it was trained before and is only played again for its riders.
        twin_only: no cell attacks it; it is the undefended twin of one that does, or the same without an active attack
            in it: the accuracy of a deployment is that of honest training.
    """

    cell: Cell
    riders: tuple[Cell, ...] = ()
    replay: bool = False
    twin_only: bool = False


@dataclass
class Plan:
    """What a run would do now.

    Attributes:
        cells: of the whole matrix, with the reason where one is refused.
        trainings: to do; those that stand in the run folder are not among them.
        attacks: to do after that: cells with their phase. Attacks that ride on a training are not among them.
        done: cells that are finished already.
        left: cells that ``limit`` leaves for another time.
        estimate: how long it takes, roughly; None if it was not asked for.
    """

    cells: list[Resolved]
    trainings: list[Planned] = field(default_factory=list)
    attacks: list[tuple[Cell, str]] = field(default_factory=list)
    done: int = 0
    left: int = 0
    estimate: Estimate | None = None

    @property
    def refused(self) -> list[Resolved]:
        """Cells that nobody can run, with the reason."""
        return [r for r in self.cells if r.reason is not None]

    def as_dict(self) -> dict[str, Any]:
        """The counts as plain data."""
        kinds = self._kinds()
        reasons = Counter((r.cell.attack.name, str(r.reason)) for r in self.refused)
        return {
            "cells": len(self.cells),
            "deployments": len({r.cell.deployment_key() for r in self.cells}),
            "seeds": len({r.cell.seed for r in self.cells}),
            "done": self.done,
            "left_by_limit": self.left,
            "refused": [{"attack": a, "reason": why, "cells": n} for (a, why), n in reasons.items()],
            "trainings": {
                "total": len(self.trainings),
                **kinds,
                "twins_added": sum(t.twin_only for t in self.trainings),
            },
            "attacks": len(self.attacks) + self._ridden(),
            "seconds": None if self.estimate is None else self.estimate.as_dict(),
        }

    def _kinds(self) -> dict[str, int]:
        return {
            "honest": sum(not t.replay and not t.cell.active for t in self.trainings),
            "active": sum(t.cell.active for t in self.trainings),
            "replays": sum(t.replay for t in self.trainings),
        }

    def _ridden(self) -> int:
        return sum(len(phases(rider.goal)) for t in self.trainings for rider in t.riders)

    def __str__(self) -> str:
        counts = self.as_dict()
        kinds, refused = counts["trainings"], sum(r["cells"] for r in counts["refused"])
        size = f"{counts['deployments']} deployments x attacks x {counts['seeds']} seeds"
        left = f", {self.left} left by --limit" if self.left else ""
        sums = f"{kinds['honest']} honest + {kinds['active']} active + {kinds['replays']} replays"
        twins = (
            f"; {kinds['twins_added']} that no cell attacks, behind accuracy and accuracy_drop"
            if kinds["twins_added"]
            else ""
        )
        lines = [
            f"cells      {counts['cells']}: {size}; {refused} refused, {self.done} done already{left}",
            f"trainings  {kinds['total']} = {sums}{twins}",
            f"attacks    {counts['attacks']} (member victims and query victims are attacked apart)",
        ]
        if self.estimate is not None:
            lines.append(f"time       {self.estimate}")
        if refused:
            lines.append("refused")
            lines += [f"  {r['cells']:>4} x {r['attack']}: {r['reason']}" for r in counts["refused"]]
        return "\n".join(lines)


def make_plan(cells: Sequence[Resolved], store: Store | None = None, *, limit: int | None = None) -> Plan:
    """Finds what is still to do.

    Args:
        cells: the matrix, resolved.
        store: the run folder, where finished cells are found; None for a fresh one.
        limit: run at most so many cells now, the first that are not finished.
    """
    plan = Plan(list(cells))
    todo: list[tuple[Cell, list[str]]] = []
    for resolved in cells:
        if resolved.reason is None:
            missing = [p for p in phases(resolved.cell.goal) if store is None or not store.finished(resolved.cell, p)]
            plan.done += not missing
            if missing:
                todo.append((resolved.cell, missing))
    if limit is not None:
        plan.left = max(len(todo) - limit, 0)
        todo = todo[:limit]
    baselines = [r.cell for r in cells if r.deployable and r.cell.mode == Mode.CENTRALIZED] if limit is None else []
    watching = [cell for cell, _ in todo if _seat(cell) is Seat.BESIDE]
    plan.trainings = _trainings([cell for cell, _ in todo], baselines, watching, store)
    riding = {rider.key() for t in plan.trainings for rider in t.riders}
    after = [(cell, phase) for cell, missing in todo if cell.key() not in riding for phase in missing]
    sessions = {cell.session_key(): number for number, (cell, _) in enumerate(after)}
    plan.attacks = sorted(after, key=lambda attack: sessions[attack[0].session_key()])  # a session is opened once
    return plan


def _trainings(
    todo: Sequence[Cell], baselines: Iterable[Cell], watching: Sequence[Cell], store: Store | None
) -> list[Planned]:
    """Each session once: those the cells need, then the honest and undefended twins that none of them is."""
    found: dict[str, Planned] = {}
    for cell in (*todo, *baselines):
        found.setdefault(cell.session_key(), Planned(cell, riders=(cell,) if cell.active else ()))
    for twin in (twin for cell in todo for twin in (cell.honest(), cell.twin())):
        found.setdefault(twin.session_key(), Planned(twin, twin_only=True))
    fresh = {
        key: training
        for key, training in found.items()
        if store is None or store.outcome(key) is None or training.riders
    }
    replays: list[Planned] = []
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in watching:  # one training is watched by one adversary: what it knows is the same for all
        groups.setdefault((cell.session_key(), cell.profile, cell.adaptive, cell.data.get("known")), []).append(cell)
    for (key, *_), riders in groups.items():
        if key in fresh and not fresh[key].riders:
            fresh[key] = replace(fresh[key], riders=tuple(riders))
        else:
            replays.append(Planned(riders[0], riders=tuple(riders), replay=True))
    return [*fresh.values(), *replays]


def _seat(cell: Cell) -> Seat:
    return getattr(ATTACKS.get(cell.attack.name), "seat", Seat.AFTER)
