# SPDX-License-Identifier: Apache-2.0
"""The table of all attacks: what each one got, where, and what it spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.suite.cells import Row, interval, line, number, place
from benchmarks.versions import changed, versions
from splitguard.matrix import Record, Results

__all__ = ["attack_rows", "attack_table"]

#: What is shown for each goal: the heading, and the column of results.csv.
METRICS: dict[str, dict[str, str]] = {
    "inputs": {"SSIM": "ssim", "of the blind guess": "blind", "LPIPS": "lpips", "re-identified": "reid"},
    "labels": {"right": "label_accuracy", "renamed by an oracle": "label_cluster_accuracy_oracle"},
    "candidates": {"right": "choice_accuracy", "by chance": "chance"},
    "attribute": {"right": "attribute_accuracy", "balanced": "balanced_accuracy", "blind": "blind"},
    "membership": {"AUC": "membership_auc", "TPR at 1 % FPR": "membership_tpr"},
    "functionality": {"stolen": "stolen_accuracy", "deployed": "deployed_accuracy", "blind": "blind"},
}
#: The goal whose success is no share of a victim, so that there is no leakage.
BARE = "functionality"
#: Optimizer steps, tuning included, of the attacks whose settings the matrix file gives.
EQUAL = 1000
EXCEPT = (
    "fsha is not here: it takes part in a session of its own, as many steps as that has rounds. Attacks after labels "
    "are compared with their defaults only, as most take a handful of steps."
)
SPENT = ("seconds", "steps", "queries", "aux", "known")


def attack_rows(results: Results) -> list[Row]:
    """One row an attack: member victims."""
    return [
        {
            "attack": str(record.cell.attack),
            "goal": record.cell.goal,
            "equal": bool(record.cell.attack.told),
            **_where(record),
            **_told(record),
            "versions": versions([record.cell]),
        }
        for record in results.records
        if record.phase == "training"
    ]


def _where(record: Record) -> Row:
    cell = record.cell
    row = record.row()
    return {
        "mode": cell.mode,
        "labels": cell.labels,
        "cut": "..".join(cell.cuts),
        "profile": row["profile"],
        "status": record.status,
        "reason": record.reason,
    }


def _told(record: Record) -> Row:
    budget: Mapping[str, Any] = record.extra.get("budget", {})
    shown = (*METRICS[record.cell.goal].values(), "leakage", "leakage_low", "leakage_high", "weak")
    return {**{name: record.values.get(name) for name in shown}, **{name: budget.get(name) for name in SPENT}}


def attack_table(rows: Sequence[Row]) -> str:
    """Markdown, by goal."""
    lines = [
        "# Every attack once",
        "",
        "Fashion-MNIST, a LeNet, no defense, 32 member victims, seed 7; label attacks answer for all rows of one",
        "client in one epoch. 6,000 rows and SGD; but 600 rows for `idlg` and 2,000 for `llg`, whose clients are",
        "averaged after every batch, and Adam and the cut pool2 for `fsha`, which needs more steps. Leakage is 0 for",
        "the best blind guess, which knows the victims' labels where they are sent, and 1 for perfect recovery, with",
        "its 95 % interval over victims: it says nothing of other seeds. An oracle renames guessed labels one to one",
        "as suits the truth best, which no attacker can: where it gains, groups were found and misnamed.",
        "",
        "Each attack runs with its defaults, so rows are not at equal budget: what each one spent, tuning included,",
        "stands in its last columns. Steps are an optimizer's, those of several networks added up, queries those of",
        "the deployed client; aux counts rows of the attacker's own, known those of the client whose labels it was",
        "told; empty is none, and for known also what was not recorded. Steps and seconds are all that was spent,",
        "beside the session and after it; seconds by the clock, of a machine that was not idle. Made by `python -m",
        "benchmarks.suite attacks`.",
    ]
    for goal, equal in dict.fromkeys((row["goal"], row.get("equal", False)) for row in rows):
        headings = ["attack", "deployment", "profile", *METRICS[goal], *([] if goal == BARE else ["leakage"]), *SPENT]
        title = f"## After {goal}" + (f", at about {EQUAL:,} steps" if equal else "")
        lines += ["", title, ""]
        lines += [EXCEPT, ""] if equal else []
        lines += [line(headings), line(["---"] * len(headings))]
        lines += [line(_fields(row)) for row in rows if (row["goal"], row.get("equal", False)) == (goal, equal)]
    if any(_earlier(row) for row in rows):
        lines += ["", "\\* of an earlier version of the attack, or of one that was not recorded: to be run again."]
    return "\n".join(lines) + "\n"


def _earlier(row: Row) -> bool:
    """Whether it is of another version than today's; one stored without its version counts."""
    return "versions" not in row or bool(changed(row["versions"]))


def _fields(row: Row) -> list[str]:
    start = [row["attack"] + (" *" if _earlier(row) else ""), place(row), row["profile"] or ""]
    numbers = [number(row.get(name)) for name in METRICS[row["goal"]].values()]
    leakage = f"{number(row['leakage'])} {interval(row['leakage_low'], row['leakage_high'])}".strip()
    spent = [number(row["seconds"], 1), *(str(row.get(name) or "") for name in SPENT[1:])]
    fields = [*numbers, *([] if row["goal"] == BARE else [leakage + (", weak" if row["weak"] else "")]), *spent]
    if row["status"] != "ok":
        fields = [f"{row['status']}: {row['reason']}", *[""] * (len(fields) - 1)]
    return [*start, *fields]
