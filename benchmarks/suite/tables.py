# SPDX-License-Identifier: Apache-2.0
"""The tables of the suite: rows as plain data from a run, and Markdown from rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.suite.realism import realism_rows, realism_table
from splitguard.matrix import Record, Results
from splitguard.metrics import paired_difference

__all__ = ["TABLES"]

Row = dict[str, Any]
Made = tuple[Callable[[Results], list[Row]], Callable[[Sequence[Row]], str]]
#: What the table of attacks takes from a record.
SHOWN = ("ssim", "lpips", "reid", "label_accuracy", "leakage", "leakage_low", "leakage_high", "weak", "attack_seconds")
#: By how much knowing a defense may cost an attacker before the table says so.
LOSS = -0.02


def attack_rows(results: Results) -> list[Row]:
    """One row an attack: member victims."""
    return [
        {"attack": record.cell.attack.name, "goal": record.cell.goal, **_where(record), **_told(record)}
        for record in results.records
        if record.phase == "training"
    ]


def _where(record: Record) -> Row:
    cell = record.cell
    row = record.row()
    return {
        "mode": cell.mode + (", labels at the server" if cell.labels == "server" else ""),
        "cut": "..".join(cell.cuts),
        "profile": row["profile"],
        "status": record.status,
        "reason": record.reason,
        "accuracy": row["accuracy"],
    }


def _told(record: Record) -> Row:
    budget: Mapping[str, Any] = record.extra.get("budget", {})
    return {
        **{name: record.values.get(name) for name in SHOWN},
        **{k: budget.get(k) for k in ("steps", "queries", "aux")},
    }


def attack_table(rows: Sequence[Row]) -> str:
    """Markdown, by goal."""
    lines = [
        "# Every attack once",
        "",
        "Fashion-MNIST, 6,000 rows, a LeNet, no defense, 32 member victims, seed 7; label attacks answer for all rows",
        "of one client in one epoch. Leakage is 0 for the best blind guess and 1 for perfect recovery, with its 95 %",
        "interval over victims. Made by `python -m benchmarks.suite attacks`.",
    ]
    for goal in dict.fromkeys(row["goal"] for row in rows):
        lines += [
            "",
            f"## After {goal}",
            "",
            "| attack | deployment | profile | SSIM | LPIPS | re-identified | labels | leakage "
            "| seconds | steps | queries | aux |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_attack_line(row) for row in rows if row["goal"] == goal]
    return "\n".join(lines) + "\n"


def _attack_line(row: Row) -> str:
    where = f"{row['mode']}, {row['cut']}"
    if row["status"] != "ok":
        return f"| {row['attack']} | {where} | {row['profile']} | {row['status']}: {row['reason']} {'| ' * 8}|"
    leakage = f"{_number(row['leakage'])} {_interval(row['leakage_low'], row['leakage_high'])}".strip()
    leakage += ", weak" if row["weak"] else ""
    numbers = [_number(row[name]) for name in ("ssim", "lpips", "reid", "label_accuracy")]
    spent = [_number(row["attack_seconds"], 1), *(str(row[name] or "") for name in ("steps", "queries", "aux"))]
    return f"| {' | '.join([row['attack'], where, row['profile'] or '', *numbers, leakage, *spent])} |"


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
        twin = replace(cell, adaptive=True).key()
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
        "Fashion-MNIST, 6,000 rows, a LeNet, 32 member victims, means over seeds. *adaptive* attackers know the",
        "defense and its settings, *static* ones do not; the gap is how far the second would mislead, paired seed by",
        "seed, and *at least* its one-sided lower 95 % limit (Student t over seeds, by row). An adaptive attacker may",
        f"always do what the static one does: a limit below {LOSS}, marked !, is a fault of the attack and no merit of",
        "the defense, or says that the seeds are too few. Made by `python -m benchmarks.suite defenses`.",
        "",
        "| defense | cut | accuracy | epsilon | attack | after | adaptive | static | gap | at least |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = [_number(row["accuracy"]), _number(row["epsilon"], 0)]
        leaks = [_number(row[name]) for name in ("adaptive", "static", "gap", "gap_at_least")]
        leaks[-1] += " !" if row in lost else ""
        lines.append(f"| {' | '.join([row['defense'], row['cut'], *numbers, row['attack'], row['goal'], *leaks])} |")
    told = sum(row["gap_at_least"] is not None for row in rows)
    lines += ["", f"Limits of at least {LOSS}: {told - len(lost)} of {told}."]
    return "\n".join(lines) + "\n"


def codebook_rows(results: Results) -> list[Row]:
    """One row a deployment."""
    cells = {record.cell.deployment_key(): record.cell for record in results.records}
    taken = ("epsilon", "accuracy", "aux_accuracy", "worst_input", "worst_input_high", "worst_input_attack")
    rows = []
    for found in results.summary.to_dict("records"):
        cell = cells[found["deployment"]]
        named = [r for r in results.records if r.cell.deployment_key() == found["deployment"]]
        told = [r.values for r in named if r.phase == "training" and r.cell.goal == "candidates"]
        rows.append(
            {
                "aux": cell.data["aux"],
                "labelled": cell.training["pretrain_epochs"] != 0,
                "defense": cell.defended(),
                **{name: None if found[name] != found[name] else found[name] for name in taken},
                "choices": _mean([v.get("choice_accuracy") for v in told]),
                "bound": _mean([v.get("bound") for v in told]),
            }
        )
    return rows


def codebook_table(rows: Sequence[Row]) -> str:
    """Markdown: what is left of the accuracy, and of the victims."""
    lines = [
        "# A deployment that can be signed",
        "",
        "Fashion-MNIST, 20,000 private rows at 5 clients, a LeNet cut at fc1, a public and frozen head, each row sent",
        "once, means over 3 seeds. Epsilon is for the server's whole view and any two inputs (replace-one): pure for",
        "`codebook`, at delta 1e-5 for `gaussian`. *Auxiliary alone* is what the server reaches before it has seen any",
        "private row; without labels there is no such number, and the head keeps its random weights. *Worst leakage*",
        "is that of the strongest of the codebook's breakers, with the upper 95 % limit over seeds and victims.",
        "*Named* is how often the right one of 32 candidates was named, beside the share that no attacker can beat.",
        "Made by `python -m benchmarks.suite codebook`.",
        "",
        "| auxiliary rows | defense | accuracy | auxiliary alone | worst leakage | by | named | no more than |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rows_known = f"{row['aux']:,}, {'labelled' if row['labelled'] else 'no labels'}"
        leakage = f"{_number(row['worst_input'])} (up to {_number(row['worst_input_high'])})"
        shown = [rows_known, row["defense"], _number(row["accuracy"]), _number(row["aux_accuracy"]), leakage]
        shown += [row["worst_input_attack"] or "", _number(row["choices"]), _number(row["bound"])]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[Any]) -> float | None:
    """None unless all are there."""
    return float(np.mean(values)) if values and all(v is not None for v in values) else None


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


TABLES: dict[str, Made] = {
    "attacks": (attack_rows, attack_table),
    "codebook": (codebook_rows, codebook_table),
    "defenses": (defense_rows, defense_table),
    "realism": (realism_rows, realism_table),
}
