# SPDX-License-Identifier: Apache-2.0
"""Which of N candidates was sent: how often an attack is right or re-identifies, beside what no attacker can beat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from splitguard.api import Goal
from splitguard.matrix import Record
from splitguard.metrics.stats import Interval, clopper_pearson
from splitguard.reports.facts import Deployment

__all__ = ["Match", "matches"]


@dataclass(frozen=True)
class Match:
    """One attack on one deployment in one phase, all seeds together.

    Attributes:
        deployment: which.
        attack, phase: which.
        hits, n: right choices, and choices; of an attack on inputs, guesses nearest to their own victim, and guesses.
        share: hits / n.
        interval: Clopper-Pearson, 95 %, two-sided; 97.5 % of guesses, which are counted by the better of two distances.
        chance: 1 / candidates.
        bound: mean over the choices of the theorem's limit; None where nothing is guaranteed.
        seeds: how many.
    """

    deployment: Deployment
    attack: str
    phase: str
    hits: int
    n: int
    share: float
    interval: Interval
    chance: float
    bound: float | None
    seeds: int

    @property
    def exceeds(self) -> bool:
        """The whole interval lies above the bound, which no attacker reaches who judges each row by itself."""
        return self.bound is not None and self.interval.low > self.bound


def matches(everyone: Sequence[Deployment]) -> list[Match]:
    """Every finished attack that chooses among candidates; of those on inputs, the ones with a bound."""
    out = []
    for deployment in everyone:
        groups: dict[tuple[str, str, float], list[Record]] = defaultdict(list)
        bounded = [r for r in deployment.finished(Goal.INPUTS) if r.values.get("bound") is not None]
        for record in (*deployment.finished(Goal.CANDIDATES), *bounded):
            if _right(record) is not None and record.values.get("n"):
                chance = float(record.values.get("chance") or record.values.get("blind") or 0)
                groups[deployment.attack_of(record), record.phase, chance].append(record)
        out += [_match(deployment, *key, records) for key, records in groups.items()]
    return out


def _right(record: Record) -> float | None:
    """The share of victims named."""
    share = record.values.get("reid" if record.cell.goal == Goal.INPUTS else "choice_accuracy")
    return None if share is None else float(share)


def _match(deployment: Deployment, attack: str, phase: str, chance: float, records: Sequence[Record]) -> Match:
    each = [int(r.values["n"] or 0) for r in records]
    hits = sum(round((_right(r) or 0) * n) for r, n in zip(records, each, strict=True))
    bounds = [r.values.get("bound") for r in records]
    twice = any(r.values.get("reid_pixel") is not None and r.values.get("reid_lpips") is not None for r in records)
    known = [float(b) * n for b, n in zip(bounds, each, strict=True) if b is not None]
    return Match(
        deployment=deployment,
        attack=attack,
        phase=phase,
        hits=hits,
        n=sum(each),
        share=hits / sum(each),
        interval=clopper_pearson(hits, sum(each), level=0.975 if twice else 0.95),
        chance=chance,
        bound=sum(known) / sum(each) if len(known) == len(bounds) else None,
        seeds=len(records),
    )
