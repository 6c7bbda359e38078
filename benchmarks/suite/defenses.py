# SPDX-License-Identifier: Apache-2.0
"""The table of defenses: leakage to attackers who know the defense beside leakage to those who do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.suite.cells import Row, line, number, place
from splitguard.matrix import Results
from splitguard.metrics import paired_difference

__all__ = ["LOSS", "defense_rows", "defense_table"]

#: By how much knowing a defense may cost an attacker before the table says so.
LOSS = -0.02


def defense_rows(results: Results) -> list[Row]:
    """One row a deployment and attack: means over seeds, adaptive and static, and of their difference seed by seed."""
    found: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
    for record in results.records:
        cell, value = record.cell, record.values.get("leakage")
        if record.status != "ok" or record.phase != "training" or value is None:
            continue
        key = (cell.mode, cell.labels, "..".join(cell.cuts), cell.defended(), str(cell.attack), cell.goal)
        kind = "adaptive" if cell.adaptive else "static"
        own = found.setdefault(key, {"adaptive": {}, "static": {}, "accuracy": {}, "epsilon": {}})
        twin = cell.paired_key()
        own[kind][twin] = float(value)
        for name in ("accuracy", "epsilon"):
            told = record.values.get(name)
            if told is not None:
                own[name][twin] = float(told)
    names = ("mode", "labels", "cut", "defense", "attack", "goal")
    return [
        {
            **dict(zip(names, key, strict=True)),
            **{k: float(np.mean(list(v.values()))) if v else None for k, v in own.items()},
            **_paid(own["adaptive"], own["static"]),
        }
        for key, own in found.items()
    ]


def _paid(adaptive: Mapping[str, float], static: Mapping[str, float]) -> Row:
    """The mean of adaptive - static over the pairs that are whole, and its one-sided lower 95 % limit over seeds."""
    pairs = [twin for twin in adaptive if twin in static]
    if not pairs:
        return {"gap": None, "gap_at_least": None, "pairs": 0}
    paid = paired_difference([adaptive[p] for p in pairs], [static[p] for p in pairs])
    return {"gap": paid.mean, "gap_at_least": paid.at_least, "pairs": paid.n}


def defense_table(rows: Sequence[Row]) -> str:
    """Markdown: leakage to attackers who know the defense beside leakage to those who do not."""
    lost = [row for row in rows if row["gap_at_least"] is not None and row["gap_at_least"] < LOSS]
    lines = [
        "# Every defense against its breakers",
        "",
        "Fashion-MNIST, 3,000 rows, a LeNet, 32 member victims, means over seeds. *adaptive* attackers know the",
        "defense and its settings, *static* ones do not; the gap is how far the second would mislead, paired seed by",
        "seed, and *at least* its one-sided lower 95 % limit (Student t over seeds, by row). An adaptive attacker may",
        f"always do what the static one does: a limit below {LOSS}, marked !, is a fault of the attack and no merit of",
        "the defense, or says that the seeds are too few. Made by `python -m benchmarks.suite defenses`.",
        "",
        "| defense | deployment | accuracy | epsilon | attack | after | adaptive | static | gap | at least |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = [number(row["accuracy"]), number(row["epsilon"], 0)]
        leaks = [number(row[name]) for name in ("adaptive", "static", "gap", "gap_at_least")]
        leaks[-1] += " !" if row in lost else ""
        lines.append(line([row["defense"], place(row), *numbers, row["attack"], row["goal"], *leaks]))
    told = sum(row["gap_at_least"] is not None for row in rows)
    lines += ["", f"Limits of at least {LOSS}: {told - len(lost)} of {told}."]
    return "\n".join(lines) + "\n"
