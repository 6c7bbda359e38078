# SPDX-License-Identifier: Apache-2.0
"""A deployment as the reports speak of it: numbered, named, with the worst of the attacks on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from splitguard.api import Mode
from splitguard.matrix import Cell, Record
from splitguard.reports.words import epsilon_words

__all__ = ["Deployment", "Worst", "weak"]


@dataclass(frozen=True)
class Worst:
    """What the worst finished attack after one goal reaches.

    Attributes:
        value: leakage, or a rate of re-identification.
        low, high: its interval, within what is possible; None where there is none.
        attack: which one.
        phase: on which victims.
        seeds: how many stand behind the value.
        supported: False where the attack was weak, so that the value is a lower bound and no claim of privacy.
    """

    value: float
    low: float | None
    high: float | None
    attack: str
    phase: str
    seeds: int
    supported: bool


@dataclass(frozen=True, eq=False)
class Deployment:
    """One deployment.

    Attributes:
        number: from 1, in the order of the matrix; the same everywhere in a report.
        cell: any of its cells.
        name: mode, cut, defense, and whatever else differs between the deployments of this matrix.
        row: its row of summary.csv, missing values as None; empty if nothing of it has been run.
        records: all of them.
        missing: its cells and phases that have not been run.
        twin: the key of the same deployment without any defense.
        attacks: a short name for each attack: without its settings, where that is no other attack's too.
    """

    number: int
    cell: Cell
    name: str
    row: Mapping[str, Any]
    records: tuple[Record, ...]
    missing: tuple[tuple[Cell, str], ...]
    twin: str
    attacks: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Of the deployment."""
        return self.cell.deployment_key()

    @property
    def mode(self) -> str:
        """The mode, and who owns the labels where that is not the mode's default."""
        usual = {Mode.U_SHAPED: "client"}.get(Mode(self.cell.mode), "sent")
        return self.cell.mode if self.cell.labels == usual else f"{self.cell.mode}, labels at the {self.cell.labels}"

    @property
    def cut(self) -> str:
        """The cut that is used, as ``conv2..fc1``; empty for a network that is not split."""
        return "..".join(self.cell.cuts)

    @property
    def defense(self) -> str:
        """For people; ``none`` without one."""
        return self.cell.defended()

    @property
    def defended(self) -> bool:
        """Whether there is any defense, a frozen head included."""
        return self.defense != "none"

    @property
    def split(self) -> bool:
        """False for the centralized baseline, where nothing crosses."""
        return self.cell.mode != Mode.CENTRALIZED

    @property
    def accuracy(self) -> float | None:
        """Test accuracy, mean over seeds."""
        return self.number_of("accuracy")

    @property
    def usable(self) -> bool | None:
        """Whether it is above chance plus 5 points; None if that is not known."""
        value = self.row.get("usable")
        return None if value is None else bool(value)

    @property
    def honest(self) -> Record | None:
        """A record of the deployment as it was trained without an active attack; None if it was never trained."""
        return next((found for found in self._honest() if found.values.get("accuracy") is not None), None)

    def number_of(self, column: str) -> float | None:
        """A column of its row."""
        value = self.row.get(column)
        return None if value is None else float(value)

    def guarantee(self) -> tuple[str, str]:
        """What is guaranteed for the inputs, in a few words, and what that covers."""
        number, adjacency = self.number_of, str(self.row.get("adjacency") or "")
        return epsilon_words(
            number("epsilon"), number("epsilon_rows"), number("epsilon_query"), number("delta"), adjacency
        )

    def worst(self, name: str) -> Worst | None:
        """``worst_input``, ``worst_reid`` or ``worst_label``; None if it was not evaluated."""
        value = self.number_of(name)
        if value is None:
            return None
        attack, phase = str(self.row[f"{name}_attack"]), str(self.row[f"{name}_phase"])
        of_it = [r for r in self.finished() if str(r.cell.attack) == attack and r.phase == phase]
        return Worst(
            value=value,
            low=_within(self.number_of(f"{name}_low"), least=0.0 if name == "worst_reid" else -math.inf),
            high=_within(self.number_of(f"{name}_high")),
            attack=self.attacks.get(attack, attack),
            phase=phase,
            seeds=int(self.row[f"{name}_seeds"]),
            supported=not any(weak(r) for r in of_it),
        )

    def attack_of(self, record: Record) -> str:
        """The short name of the attack."""
        return self.attacks.get(str(record.cell.attack), str(record.cell.attack))

    def finished(self, goal: str | None = None) -> list[Record]:
        """Records that are ok, of one goal or of all."""
        return [r for r in self.records if r.status == "ok" and goal in (None, r.cell.goal)]

    def asks(self, goal: str) -> bool:
        """Whether the matrix has an attack after ``goal`` on it, finished or not."""
        return any(r.cell.goal == goal for r in self.records) or any(cell.goal == goal for cell, _ in self.missing)

    def why_not(self, goal: str) -> str:
        """Why nothing is known about ``goal``, in a few words."""
        if not self.split:
            return "nothing crosses a cut"
        of_goal = [r for r in self.records if r.cell.goal == goal]
        reasons = [str(r.reason) for r in of_goal if r.status == "refused"]
        if reasons and len(reasons) == len(of_goal):
            return "labels are sent" if all("is given the labels" in text for text in reasons) else "refused"
        if any(r.status == "failed" for r in of_goal):
            return "failed"
        return "not run yet" if any(cell.goal == goal for cell, _ in self.missing) else "no attack"

    def sentences(self) -> list[str]:
        """Its guarantees in words, each once, over all seeds."""
        said = [str(s) for r in self._honest() for s in r.extra.get("guarantees", ())]
        return list(dict.fromkeys(said))

    def _honest(self) -> list[Record]:
        return [found for record in self.records if (found := record.honest()) is not None]


def _within(end: float | None, least: float = -math.inf) -> float | None:
    """The end of an interval, where Student's t knows nothing of the limits of a share."""
    return None if end is None else min(max(end, least), 1.0)


def weak(record: Record) -> bool:
    """Whether the attack lost to the truth in its own objective."""
    return record.values.get("weak") is True
