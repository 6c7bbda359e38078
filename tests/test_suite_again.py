# SPDX-License-Identifier: Apache-2.0
"""Where three seeds leave open whether knowing a defense costs an attacker, fresh ones say no; others are held too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.suite.__main__ import HERE
from benchmarks.suite.defense_page import LOSS
from benchmarks.versions import changed

NAMED = ("mode", "cut", "task", "defense", "attack", "goal")


def stored(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return [row for row in rows if row["gap_at_least"] is not None]


def named(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in NAMED)


def test_every_marked_row_is_run_again() -> None:
    marked = {named(row) for row in stored("defenses") if row["gap_at_least"] < LOSS}
    assert marked == {named(row) for row in stored("again")}


@pytest.mark.parametrize(("name", "rows", "seeds"), [("again", 11, 5), ("others", 8, 3)])
def test_knowing_a_defense_costs_no_attacker_more_than_is_allowed(name: str, rows: int, seeds: int) -> None:
    assert len(stored(name)) == rows
    for row in stored(name):
        assert row["gap_at_least"] >= LOSS, named(row)
        assert row["pairs"] >= seeds
        assert not changed(row["versions"])
