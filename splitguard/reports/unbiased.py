# SPDX-License-Identifier: Apache-2.0
"""The reference line of unbiased attackers beside the attack that read inputs best, by mean squared error."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from splitguard.api import Goal
from splitguard.matrix import Record
from splitguard.reports.facts import Deployment
from splitguard.reports.words import MISSING, victims_of

__all__ = ["Unbiased", "unbiased"]


@dataclass(frozen=True)
class Unbiased:
    """One deployment in one phase.

    Attributes:
        deployment: which.
        whom: the victims, in words.
        reference: 1 / dFIL, mean over seeds: the least error of unbiased attackers.
        best: the least error that any finished attack reached, mean over seeds; None without one.
        attack: which one that was; empty without one.
    """

    deployment: Deployment
    whom: str
    reference: float
    best: float | None
    attack: str

    @property
    def texts(self) -> tuple[str, str]:
        """Reference and best, with three digits; errors span orders of magnitude."""
        return f"{self.reference:.3g}", MISSING if self.best is None else f"{self.best:.3g}"


def unbiased(everyone: Sequence[Deployment]) -> list[Unbiased]:
    """Every deployment and phase with a reference, which all records of one session repeat."""
    out = []
    for deployment in everyone:
        phases: dict[str, list[Record]] = defaultdict(list)
        for record in deployment.records:
            if not record.cell.active and record.values.get("dfil_mse") is not None:
                phases[record.phase].append(record)
        out += [_unbiased(deployment, phase, records) for phase, records in phases.items()]
    return out


def _unbiased(deployment: Deployment, phase: str, records: Sequence[Record]) -> Unbiased:
    by_seed = {r.cell.seed: _number(r, "dfil_mse") for r in records}
    errors: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record.status == "ok" and record.cell.goal == Goal.INPUTS and record.values.get("mse") is not None:
            errors[deployment.attack_of(record)].append(_number(record, "mse"))
    means = {attack: sum(found) / len(found) for attack, found in errors.items()}
    best = min(means, key=means.__getitem__, default=None)
    return Unbiased(
        deployment=deployment,
        whom=victims_of(phase),
        reference=sum(by_seed.values()) / len(by_seed),
        best=None if best is None else means[best],
        attack=best or "",
    )


def _number(record: Record, column: str) -> float:
    return float(record.values[column])  # type: ignore[arg-type]  # None was left out
