# SPDX-License-Identifier: Apache-2.0
"""Where three seeds leave open whether knowing a defense costs an attacker, fresh ones say that it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.suite.defense_page import LOSS, again_table
from benchmarks.versions import changed

ROOT = Path(__file__).parents[1]
NAMED = ("mode", "cut", "task", "defense", "attack", "goal")


def stored(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(
        (ROOT / "benchmarks" / "suite" / "results" / f"{name}.json").read_text(encoding="utf-8")
    )
    return [row for row in rows if row["gap_at_least"] is not None]


def named(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in NAMED)


def test_every_marked_row_is_run_again() -> None:
    marked = {named(row) for row in stored("defenses") if row["gap_at_least"] < LOSS}
    assert marked == {named(row) for row in stored("again")}


def test_on_fresh_seeds_knowing_a_defense_costs_no_attacker_more_than_is_allowed() -> None:
    for row in stored("again"):
        assert row["gap_at_least"] >= LOSS, named(row)
        assert row["pairs"] >= 5
        assert not changed(row["versions"])


def test_the_page_is_that_of_the_stored_rows_and_tells_their_seeds() -> None:
    rows = stored("again")
    text = again_table(rows)
    assert (ROOT / "docs" / "again.md").read_text(encoding="utf-8") == text
    assert "Of 5 to 24 seeds" in text
    assert f"Limits of at least {LOSS}: {len(rows)} of {len(rows)}." in text
