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
        for name in ("accuracy", "epsilon"):  # of honest training, where the attack takes part in its own
            told = (record.honest() or record).values.get(name)
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
        *_headline(rows),
        "",
        "Fashion-MNIST, 3,000 rows, a LeNet, 32 member victims, means over seeds. *adaptive* attackers know the",
        "defense and its settings, *static* ones do not; leakage is 0 for a blind guess and 1 for perfect recovery.",
        "The gap is how far the second would mislead, paired seed by seed, and *at least* its one-sided lower 95 %",
        f"limit (Student t over seeds, by row). A limit below {LOSS}, marked !, says that knowing the defense may have",
        "cost the attacker something, which is a fault of the attack and no merit of the defense, or that the seeds",
        "are too few. Accuracy is that of honest training. The detectors of a hijacker have a page of their own,",
        "docs/detection.md. Made by `python -m benchmarks.suite defenses`.",
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


def _headline(rows: Sequence[Row]) -> list[str]:
    """Where knowing the defense pays most: the five widest gaps that are clear of zero."""
    clear = [row for row in rows if row["gap_at_least"] is not None and row["gap_at_least"] > 0]
    widest = sorted(clear, key=lambda row: -row["gap"])[:5]
    if not widest:
        return ["In no row does an attacker who knows the defense gain clearly."]
    told = [
        f"{row['attack']} on {row['defense']}, {number(row['static'])} to {number(row['adaptive'])}" for row in widest
    ]
    told_of = sum(row["gap_at_least"] is not None for row in rows)
    gains = f"In {len(clear)} of {told_of} rows an attacker who knows the defense gains clearly"
    return [f"**{gains}; most in** {'; '.join(told)}."]
