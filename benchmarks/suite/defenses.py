# SPDX-License-Identifier: Apache-2.0
"""Every defense against its breakers: what attackers reach who know it, and who do not, over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.suite.cells import Row
from benchmarks.versions import versions
from splitguard.matrix import Record, Results
from splitguard.matrix.cell import Cell
from splitguard.matrix.summary import USABLE_ABOVE_CHANCE
from splitguard.metrics import paired_difference
from splitguard.privacy import verdict

__all__ = ["KINDS", "defense_rows"]

#: Whether an attacker knows the defense.
KINDS = ("adaptive", "static")
#: Of honest training: with the defense, what it costs against none, and what auxiliary rows alone teach.
ACCURACIES = ("accuracy", "accuracy_drop", "aux_accuracy")
#: The share of victims that no attacker names who judges each row by itself; of images, the least unbiased error.
LIMITS = ("bound", "dfil_mse")


@dataclass
class _Found:
    """What was measured of one deployment and attack.

    Attributes:
        cell: any of its cells.
        reason: why it was refused, if it was.
        leakage: of each kind, by what two cells share that differ in ``adaptive`` alone.
        beside: of each kind, what stands beside each leakage.
        honest: of each training, by its seed and settings.
        limits: of each record.
    """

    cell: Cell
    reason: str | None = None
    guarantee: str = ""
    chance: float | None = None
    leakage: dict[str, dict[str, float]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    beside: dict[str, list[Row]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    honest: dict[str, Row] = field(default_factory=dict)
    limits: list[Row] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """One record with a number, or with the reason why it has none."""
        honest = record.honest()  # an attack that takes part in its own training says nothing of accuracy
        self.guarantee = self.guarantee or _stated((honest or record).extra.get("guarantee_data", ()))
        value, twin = record.values.get("leakage"), record.cell.paired_key()
        if value is None:
            self.reason = record.reason
            return
        kind = KINDS[not record.cell.adaptive]
        self.leakage[kind][twin] = float(value)
        self.beside[kind].append(_beside(record))
        self.honest[twin] = {name: None if honest is None else honest.values.get(name) for name in ACCURACIES}
        self.chance = record.extra.get("chance", self.chance)
        self.limits.append({name: record.values.get(name) for name in LIMITS})

    def row(self) -> Row:
        """Means over seeds."""
        told = _means(list(self.honest.values()), ACCURACIES)
        usable = None
        if self.chance is not None and told["accuracy"] is not None:
            usable = told["accuracy"] >= self.chance + USABLE_ABOVE_CHANCE
        measured = any(self.leakage.values())
        return {
            "guarantee": self.guarantee,
            "refused": None if measured else self.reason,
            "versions": versions([self.cell]),
            **{kind: float(np.mean(list(of.values()))) if of else None for kind, of in self.leakage.items()},
            **told,
            "usable": usable,
            **_means(self.limits, LIMITS),
            "beside": {kind: _means(of, of[0]) for kind, of in self.beside.items() if of},
            **_paid(*self.leakage.values()),
        }


def defense_rows(results: Results) -> list[Row]:
    """One row a deployment and attack: means over seeds, adaptive and static, and of their difference seed by seed.

    One without a number has the reason, ``refused``. ``beside`` holds, of either kind: the leakage of the half of the
    victims that the strongest attack is chosen on and of the other, the share of victims named, the error of images,
    the share of seeds in which the attack was weak, and what it spent.
    """
    found: dict[tuple[str, ...], _Found] = {}
    for record in results.records:
        if record.phase == "training":
            cell = record.cell
            key = (cell.mode, cell.labels, "..".join(cell.cuts), _task(cell), cell.defended(), str(cell.attack))
            found.setdefault((*key, cell.goal), _Found(cell)).add(record)
    names = ("mode", "labels", "cut", "task", "defense", "attack", "goal")
    return [dict(zip(names, key, strict=True)) | of.row() for key, of in found.items()]


def _task(cell: Cell) -> str:
    """``"2 classes"`` where the labels are coarse; empty where they are those of the data."""
    coarse = cell.data.get("coarse")
    return f"{len(set(coarse))} classes" if coarse else ""


def _stated(guarantees: Iterable[Mapping[str, Any]]) -> str:
    """Each epsilon with what it is about: ``"2 (labels)"``, or ``"8 (inputs, releases)"`` without the whole view."""
    told = []
    for stated in guarantees:
        whole = stated["epsilon"] is not None
        epsilon = stated["epsilon" if whole else "epsilon_rows"]
        if epsilon is not None:
            worth = verdict(epsilon)
            told.append(
                f"{epsilon:.3g} ({stated['channel']}{'' if whole else ', releases'})" + (f", {worth}" if worth else "")
            )
    return " + ".join(told)


def _beside(record: Record) -> Row:
    values, half = record.values, record.extra.get("halves", {}).get("leakage") or {}
    spent = record.extra.get("budget", {})
    return {
        "choose": half.get("choose"),
        "report": half.get("report"),
        "named": values.get("choice_accuracy", values.get("reid")),
        "mse": values.get("mse"),
        "weak": values.get("weak"),
        "steps": spent.get("steps"),
        "seconds": spent.get("seconds"),
    }


def _means(rows: Sequence[Row], names: Iterable[str]) -> Row:
    """Of each name the mean over the rows that have it; None where none has."""
    had = {name: [row[name] for row in rows if row[name] is not None] for name in names}
    return {name: float(np.mean(values)) if values else None for name, values in had.items()}


def _paid(adaptive: Mapping[str, float], static: Mapping[str, float]) -> Row:
    """The mean of adaptive - static over the pairs that are whole, and its one-sided lower 95 % limit over seeds."""
    pairs = [twin for twin in adaptive if twin in static]
    if not pairs:
        return {"gap": None, "gap_at_least": None, "pairs": 0}
    paid = paired_difference([adaptive[p] for p in pairs], [static[p] for p in pairs])
    return {"gap": paid.mean, "gap_at_least": paid.at_least, "pairs": paid.n}
