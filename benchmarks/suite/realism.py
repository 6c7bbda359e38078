# SPDX-License-Identifier: Apache-2.0
"""What the attacker's own rows are worth: leakage by attack and by where, how many and of which classes these rows are.

Each leakage is measured against the best blind guess with the same auxiliary rows. Worse rows make a worse blind guess,
so the SSIM stands beside it, which does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.suite.cells import Row, interval, line, number
from benchmarks.versions import changed, versions
from splitguard.matrix import Results

__all__ = ["realism_rows", "realism_table"]

SHOWN = ("leakage", "leakage_low", "leakage_high", "ssim", "blind", "weak", "accuracy")


def realism_rows(results: Results) -> list[Row]:
    """One row an attack and kind of auxiliary rows: member victims."""
    return [
        {
            "attack": record.cell.attack.name,
            "auxiliary": auxiliary(record.cell.data),
            "seed": record.cell.seed,
            "status": record.status,
            "versions": versions([record.cell]),
            **{name: record.values.get(name) for name in SHOWN},
        }
        for record in results.records
        if record.phase == "training"
    ]


def auxiliary(data: Mapping[str, Any]) -> str:
    """What the attacker has, for people."""
    source, classes = data.get("aux_source"), data.get("aux_classes")
    told = f"{data['aux']:,}"
    told += "" if classes is None else f", of {len(classes)} classes"
    return told + ("" if source is None else f" from {source['name']}")


def realism_table(rows: Sequence[Row]) -> str:
    """Markdown: attacks down, auxiliary rows across, leakage and then SSIM.

    Raises:
        ValueError: for more than one seed; the intervals are over the victims of one.
    """
    if len({row["seed"] for row in rows}) > 1:
        raise ValueError(f"wanted rows of one seed; got seeds {sorted({row['seed'] for row in rows})}: run it with one")
    kinds = list(dict.fromkeys(row["auxiliary"] for row in rows))
    found = {(row["attack"], row["auxiliary"]): row for row in rows}
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    lines = [
        "# What auxiliary rows are worth",
        "",
        "Fashion-MNIST, 3,000 rows, a LeNet cut at conv2, vanilla, no defense, 32 member victims, seed 7. Columns are",
        "the attacker's own rows: how many, and from where if not from Fashion-MNIST. `white-box-inversion`, which has",
        "the head, takes a prior, a first guess and its settings from 256 of them at most; the blind guess is made of",
        "the same rows too. `fsha` hijacks a longer session, cut at pool2. Leakage is 0 for the blind guess and 1 for",
        "perfect recovery, with its 95 % interval over victims; as worse rows make a worse blind guess, columns are",
        "compared by SSIM. Made by `python -m benchmarks.suite realism`.",
        "",
        "## Leakage",
        "",
        *_grid(attacks, kinds, lambda attack, kind: _leakage(found.get((attack, kind)))),
        "",
        "## SSIM",
        "",
        *_grid(attacks, kinds, lambda attack, kind: _shown(found.get((attack, kind)), "ssim")),
        line(["blind guess", *(_blind(found, attacks, kind) for kind in kinds)]),
    ]
    if any(changed(row["versions"]) for row in rows):
        lines += ["", "\\* of an earlier version of the attack: to be run again."]
    return "\n".join(lines) + "\n"


def _grid(attacks: Sequence[str], kinds: Sequence[str], field: Callable[[str, str], str]) -> list[str]:
    head = [line(["attack", *kinds]), line(["---"] * (1 + len(kinds)))]
    return head + [line([attack, *(field(attack, kind) for kind in kinds)]) for attack in attacks]


def _leakage(row: Row | None) -> str:
    """With its interval; why there is none, where there is none."""
    if row is None or row["status"] != "ok":
        return "not run" if row is None else str(row["status"])
    if row["leakage"] is None:
        return ""
    told = f"{number(row['leakage'], 2)} {interval(row['leakage_low'], row['leakage_high'])}".strip()
    return told + (", weak" if row["weak"] else "") + (" *" if changed(row["versions"]) else "")


def _shown(row: Row | None, name: str) -> str:
    return "" if row is None else number(row[name], 2)


def _blind(found: Mapping[tuple[str, str], Row], attacks: Sequence[str], kind: str) -> str:
    """The same for all attacks with the same rows, who are scored on the same victims."""
    return next((text for attack in attacks if (text := _shown(found.get((attack, kind)), "blind"))), "")
