# SPDX-License-Identifier: Apache-2.0
"""The tables of the suite: rows as plain data from a run, and Markdown from rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from splitguard.matrix import Record, Results

__all__ = ["TABLES"]

Row = dict[str, Any]
Made = tuple[Callable[[Results], list[Row]], Callable[[Sequence[Row]], str]]
#: What the table of attacks takes from a record.
SHOWN = ("ssim", "lpips", "reid", "label_accuracy", "leakage", "leakage_low", "leakage_high", "weak", "attack_seconds")


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
        "Fashion-MNIST, 6,000 rows, a LeNet, no defense, 32 member victims, seed 0; label attacks answer for all rows",
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
    """One row a deployment and attack: means over seeds, adaptive and static."""
    found: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for record in results.records:
        cell, value = record.cell, record.values.get("leakage")
        if record.status != "ok" or record.phase != "training" or value is None:
            continue
        key = (cell.mode, cell.labels, "..".join(cell.cuts), cell.defended(), str(cell.attack), cell.goal)
        kind = "adaptive" if cell.adaptive else "static"
        own = found.setdefault(key, {"adaptive": [], "static": [], "accuracy": [], "epsilon": []})
        own[kind].append(float(value))
        for name in ("accuracy", "epsilon"):
            if record.values.get(name) is not None:
                own[name].append(float(record.values[name] or 0))
    names = ("mode", "labels", "cut", "defense", "attack", "goal")
    return [
        {**dict(zip(names, key, strict=True)), **{k: float(np.mean(v)) if v else None for k, v in own.items()}}
        for key, own in found.items()
    ]


def defense_table(rows: Sequence[Row]) -> str:
    """Markdown: leakage to attackers who know the defense beside leakage to those who do not."""
    lines = [
        "# Every defense against its breakers",
        "",
        "Fashion-MNIST, 6,000 rows, a LeNet, 32 member victims, means over seeds. *adaptive* attackers know the",
        "defense and its settings, *static* ones do not; the gap is how far the second would mislead. Made by",
        "`python -m benchmarks.suite defenses`.",
        "",
        "| defense | cut | accuracy | epsilon | attack | after | adaptive | static | gap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        known, unknown = row["adaptive"], row["static"]
        gap = None if known is None or unknown is None else known - unknown
        numbers = [_number(row["accuracy"]), _number(row["epsilon"], 0)]
        leaks = [_number(known), _number(unknown), _number(gap)]
        lines.append(f"| {' | '.join([row['defense'], row['cut'], *numbers, row['attack'], row['goal'], *leaks])} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


TABLES: dict[str, Made] = {"attacks": (attack_rows, attack_table), "defenses": (defense_rows, defense_table)}
