# SPDX-License-Identifier: Apache-2.0
"""The table of all attacks: what each one got, where, and what it spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.suite.cells import Row, interval, line, number
from splitguard.matrix import Record, Results

__all__ = ["attack_rows", "attack_table"]

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
        "Fashion-MNIST, a LeNet, no defense, 32 member victims, seed 7; label attacks answer for all rows of one",
        "client in one epoch. 6,000 rows and SGD; but 600 rows for `idlg` and 2,000 for `llg`, whose clients are",
        "averaged after every batch, and Adam and the cut pool2 for `fsha`, which needs more steps. Leakage is 0 for",
        "the best blind guess and 1 for perfect recovery, with its 95 % interval over victims. Made by",
        "`python -m benchmarks.suite attacks`.",
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
    leakage = f"{number(row['leakage'])} {interval(row['leakage_low'], row['leakage_high'])}".strip()
    leakage += ", weak" if row["weak"] else ""
    numbers = [number(row[name]) for name in ("ssim", "lpips", "reid", "label_accuracy")]
    spent = [number(row["attack_seconds"], 1), *(str(row[name] or "") for name in ("steps", "queries", "aux"))]
    return line([row["attack"], where, row["profile"] or "", *numbers, leakage, *spent])
