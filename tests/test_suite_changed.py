# SPDX-License-Identifier: Apache-2.0
"""Running again what has changed: each row that is not today's, whole, and no other; stored ones are kept."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.suite.cells import Row
from benchmarks.suite.changed import merge, narrow
from benchmarks.suite.defenses import defense_rows
from splitguard.matrix import Cell, Record
from splitguard.matrix.cell import Plugin
from splitguard.matrix.resolve import Resolved
from tests.suite_cell import CELL, VERSION

DEFENDED = replace(CELL, defense=(Plugin("dropout"),))
OTHER = replace(DEFENDED, defense=(Plugin("top-k"),))


def both_kinds(cell: Cell, seeds: int = 2) -> list[Cell]:
    return [replace(cell, seed=seed, adaptive=adaptive) for seed in range(seeds) for adaptive in (True, False)]


def matrix_of(*cells: Cell, reason: str | None = None) -> Any:
    return SimpleNamespace(cells=[Resolved(cell, reason) for cell in cells])


def stored(cells: list[Cell], leakage: float = 0.5, reason: str | None = None) -> list[Row]:
    ok = [Record(cell, "training", "ok", values={"leakage": leakage}) for cell in cells]
    refused = [Record(cell, "training", "refused", reason) for cell in cells]
    results: Any = SimpleNamespace(records=ok if reason is None else refused)
    return defense_rows(results)


def left(matrix: Any, rows: list[Row]) -> list[Cell]:
    narrow(matrix, rows)
    return [resolved.cell for resolved in matrix.cells]


def test_rows_of_today_are_left_alone_and_missing_ones_are_run_whole() -> None:
    first, second = both_kinds(DEFENDED), both_kinds(OTHER)
    assert left(matrix_of(*first, *second), stored(first)) == second
    assert left(matrix_of(*first, *second), []) == first + second
    assert left(matrix_of(*first, *second), stored(first + second)) == []


@pytest.mark.parametrize("some", [slice(3), slice(None, None, 2)], ids=["a seed of one kind", "all of one kind"])
def test_a_row_that_lacks_some_cells_is_run_again(some: slice) -> None:
    cells = both_kinds(DEFENDED)
    assert left(matrix_of(*cells), stored(cells[some])) == cells


@pytest.mark.parametrize("name", ["white-box-inversion", "dropout"])
def test_a_row_of_an_earlier_version_is_run_again(name: str) -> None:
    cells = both_kinds(DEFENDED)
    (row,) = stored(cells)
    assert row["versions"]["white-box-inversion"] == VERSION
    row["versions"] = {**row["versions"], name: row["versions"][name] - 1}
    assert left(matrix_of(*cells), [row]) == cells


def test_a_refusal_is_told_again_only_if_its_reason_is_another_one() -> None:
    cells = both_kinds(DEFENDED)
    rows = stored(cells, reason="labels are given")
    assert left(matrix_of(*cells, reason="labels are given"), rows) == []
    assert left(matrix_of(*cells, reason="not granted"), rows) == cells
    assert left(matrix_of(*cells), rows) == cells  # it is refused no longer, or it failed


def test_fresh_rows_come_before_stored_ones_in_the_order_of_the_matrix() -> None:
    first, second, gone = both_kinds(DEFENDED), both_kinds(OTHER), both_kinds(replace(CELL, labels="server"))
    order = narrow(matrix_of(*second, *first), [])
    before, fresh = stored(first + second + gone, 0.1), stored(first, 0.9)
    assert [(row["defense"], row["adaptive"]) for row in merge(order, before, fresh)] == [
        ("top-k", 0.1),
        ("dropout", 0.9),
    ]
    assert len(merge(order, fresh, [])) == 1  # a row that was never run is not made up
