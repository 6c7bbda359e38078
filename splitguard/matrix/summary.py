# SPDX-License-Identifier: Apache-2.0
"""One row a deployment: what it can do, what the worst attack gets out of it, and how sure that is."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from splitguard.api import Goal
from splitguard.engine.training import Training
from splitguard.matrix.alarms import SUMMED_ALARMS, summed_alarms, watched
from splitguard.matrix.cell import UNKEYED, Cell
from splitguard.matrix.record import Record, Value
from splitguard.metrics.stats import clopper_pearson, t_interval

__all__ = ["SUMMARY_COLUMNS", "USABLE_ABOVE_CHANCE", "summarise"]

#: A deployment below chance (the share of the largest class) plus this is unusable, whatever it protects.
USABLE_ABOVE_CHANCE = 0.05
WHO = ("dataset", "model", "mode", "labels", "clients", "partition", "cut", "defense")
PRIVACY = ("epsilon", "epsilon_rows", "epsilon_query", "delta", "adjacency")
COSTS = ("client_params", "client_flops", "bytes_up", "bytes_down")
#: What a summary calls the worst of, the goal it belongs to, and the measures it is the worst over.
WORST = {
    "worst_input": (Goal.INPUTS, ("leakage",)),
    "worst_reid": (Goal.INPUTS, ("reid_pixel", "reid_lpips")),
    "worst_label": (Goal.LABELS, ("leakage",)),
    "worst_attribute": (Goal.ATTRIBUTE, ("leakage",)),
    "worst_membership": (Goal.MEMBERSHIP, ("leakage",)),
    "worst_functionality": (Goal.FUNCTIONALITY, ("leakage",)),
}
#: The columns of summary.csv, in order.
SUMMARY_COLUMNS = (
    *("deployment", *WHO, "train", "profile", "adaptive", "seeds", *PRIVACY),
    *("usable", "accuracy", "accuracy_low", "accuracy_high", "accuracy_drop", "aux_accuracy"),
    *(f"{name}{part}" for name in WORST for part in ("", "_low", "_high", "_attack", "_phase", "_seeds")),
    *(
        "interval",
        "attacks_ok",
        "attacks_refused",
        "attacks_failed",
        "attacks_weak",
        *SUMMED_ALARMS,
        *COSTS,
        "train_seconds",
    ),
)


def summarise(records: Sequence[Record]) -> list[dict[str, Value]]:
    """One row for each deployment, in the order of the records.

    The worst attack is the one with the largest mean, over seeds, on the choosing half of the victims; its mean on the
    other half is reported. A single attack needs no choice and is reported on all victims. With several seeds the
    interval is Student's t over them; with one it is over the victims (bootstrap), for accuracy over the test rows
    (Clopper-Pearson). The counts ``attacks_*`` are of records: attack, phase and seed.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.cell.deployment_key()].append(record)
    return [_row(key, group) for key, group in groups.items()]


def _row(key: str, records: list[Record]) -> dict[str, Value]:
    cell = records[0].cell
    honest = [h for r in records if (h := r.honest()) is not None]
    row: dict[str, Value] = dict.fromkeys(SUMMARY_COLUMNS)
    shown = records[0].row()
    row |= {name: shown[name] for name in WHO}
    row |= {"deployment": key, "train": _trained(cell), "profile": cell.profile, "adaptive": cell.adaptive}
    row |= {name: _shared(name, [r.values.get(name) for r in honest]) for name in (*PRIVACY, *COSTS)}
    by_seed = {r.cell.seed: r for r in honest if r.values.get("accuracy") is not None}
    row["seeds"] = len({r.cell.seed for r in records})
    row |= _accuracy(list(by_seed.values()))
    for name, (goal, measures) in WORST.items():
        found = _worst([r for r in records if r.status == "ok" and r.cell.goal == goal], measures)
        row |= {} if found is None else {f"{name}{part}": value for part, value in found.items()}
    told = len({r.cell.seed for r in records if r.status == "ok"})  # a seed that failed is in no interval
    row["interval"] = None if not told else f"over {told} seeds" if told > 1 else "over victims, 1 seed"
    for status in ("ok", "refused", "failed"):
        row[f"attacks_{status}"] = sum(r.status == status for r in records)
    row["attacks_weak"] = sum(r.values.get("weak") is True for r in records)
    return row | summed_alarms(watched(records))


def _accuracy(records: Sequence[Record]) -> dict[str, Value]:
    """Test accuracy over seeds, whether it is usable, and what it costs."""
    if not records:
        return {}
    values = [float(r.values["accuracy"]) for r in records]  # type: ignore[arg-type]  # None was left out
    rows = records[0].extra.get("test_rows")
    interval = t_interval(values)
    if interval is None and rows:
        interval = clopper_pearson(round(values[0] * rows), rows)
    mean, chance = sum(values) / len(values), records[0].extra.get("chance")
    return {
        "accuracy": mean,
        "accuracy_low": None if interval is None else max(interval.low, 0.0),
        "accuracy_high": None if interval is None else min(interval.high, 1.0),
        "usable": None if chance is None else mean >= chance + USABLE_ABOVE_CHANCE,
        **{
            name: _mean([r.values.get(name) for r in records])
            for name in ("accuracy_drop", "aux_accuracy", "train_seconds")
        },
    }


@dataclass
class _Candidate:
    """One attack with one measure, and what it reached for each seed."""

    record: Record
    measure: str
    halves: list[dict[str, Any]] = field(default_factory=list)
    full: list[float] = field(default_factory=list)


def _worst(records: Sequence[Record], measures: Sequence[str]) -> dict[str, Value] | None:
    """The worst attack and its measure; None if none was measured."""
    found: dict[tuple[str, str, str], _Candidate] = {}
    for record in records:
        for measure in measures:
            half = record.extra.get("halves", {}).get(measure)
            full = record.values.get(measure)
            if half is None or full is None or half["choose"] is None or half["report"] is None:
                continue
            name = (str(record.cell.attack.identity()), record.phase, measure)
            candidate = found.setdefault(name, _Candidate(record, measure))
            candidate.halves.append(half)
            candidate.full.append(float(full))
    if not found:
        return None
    worst = max(found.values(), key=lambda c: sum(h["choose"] for h in c.halves) / len(c.halves))
    alone = len(found) == 1
    values = worst.full if alone else [float(h["report"]) for h in worst.halves]
    low, high = _limits(worst, values, alone=alone)
    return {
        "": sum(values) / len(values),
        "_low": low,
        "_high": high,
        "_attack": str(worst.record.cell.attack),
        "_phase": worst.record.phase,
        "_seeds": len(values),
    }


def _limits(worst: _Candidate, values: Sequence[float], *, alone: bool) -> tuple[Value, Value]:
    over_seeds = t_interval(values)
    if over_seeds is not None:
        return over_seeds.low, over_seeds.high
    if alone and worst.measure == "leakage":
        return worst.record.values.get("leakage_low"), worst.record.values.get("leakage_high")
    return worst.halves[0]["low"], worst.halves[0]["high"]


def _shared(name: str, values: Sequence[Value]) -> Value:
    """A value that all seeds share, or the mean of numbers, for an epsilon the largest; missing ones do not count."""
    known = [v for v in values if v is not None]
    if len(set(known)) <= 1:
        return known[0] if known else None
    if any(isinstance(v, str) for v in known):
        return None
    return max(map(float, known)) if name.startswith("epsilon") else _mean(known)


def _trained(cell: Cell) -> str:
    """The training settings that are not the defaults; a frozen head is shown with the defense."""
    defaults = dataclasses.asdict(Training())
    told = {k: v for k, v in cell.training.items() if v != defaults.get(k) and k not in (*UNKEYED, "head")}
    return ", ".join(f"{k}={v}" for k, v in told.items())


def _mean(values: Sequence[Value]) -> float | None:
    known = [float(v) for v in values if v is not None]
    return sum(known) / len(known) if known else None
