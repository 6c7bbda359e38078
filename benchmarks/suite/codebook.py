# SPDX-License-Identifier: Apache-2.0
"""The table of the codebook: what is left of the accuracy, and of the victims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.suite.cells import Row, line, number
from splitguard.matrix import Results

__all__ = ["codebook_rows", "codebook_table"]

HEAD = (
    "auxiliary rows",
    "defense",
    "epsilon",
    "accuracy",
    "auxiliary alone",
    "worst leakage",
    "by",
    "named",
    "no more than",
)


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
        "is that of the strongest of the codebook's breakers, chosen on one half of the victims and reported on the",
        "other, with the upper end of its 95 % Student t interval over the seeds.",
        "*Named* is how often the right one of 32 candidates was named, beside the share that no attacker can beat who",
        "judges each row by itself. `gaussian` is its version 1 here, whose noise lacked tails beyond 5.77 standard",
        "deviations. Made by `python -m benchmarks.suite codebook`.",
        "",
        line(HEAD),
        line(["---"] * len(HEAD)),
    ]
    for row in rows:
        rows_known = f"{row['aux']:,}, {'labelled' if row['labelled'] else 'no labels'}"
        leakage = f"{number(row['worst_input'])} (up to {number(row['worst_input_high'])})"
        shown = [rows_known, row["defense"].split("(")[0].removesuffix(", head frozen"), number(row["epsilon"], 0)]
        shown += [number(row["accuracy"]), number(row["aux_accuracy"]), leakage]
        shown += [row["worst_input_attack"] or "", number(row["choices"]), number(row["bound"])]
        lines.append(line(shown))
    told = [row for row in rows if row["aux_accuracy"] is not None and row["defense"].startswith("codebook")]
    pays = sum(row["accuracy"] > row["aux_accuracy"] for row in told)
    lines += [
        "",
        f"With labelled auxiliary rows the codebook is above *auxiliary alone* in {pays} of {len(told)} deployments.",
        "These are means over seeds without a test: a difference of a few thousandths says nothing.",
    ]
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[Any]) -> float | None:
    """None unless all are there."""
    return float(np.mean(values)) if values and all(v is not None for v in values) else None
