# SPDX-License-Identifier: Apache-2.0
"""Of a matrix that takes hours, only the cells whose stored rows are missing or of an earlier version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.suite.cells import Row
from benchmarks.suite.defenses import KINDS, NAMES, row_key
from benchmarks.versions import changed
from splitguard.matrix import Matrix
from splitguard.matrix.resolve import Resolved

__all__ = ["merge", "narrow"]


def narrow(matrix: Matrix, stored: Sequence[Row]) -> list[tuple[str, ...]]:
    """Leaves the matrix those cells whose row has to be measured again; all cells of a row, so that it is whole.

    Returns the keys of all rows, in the order of the matrix as it was.
    """
    cells, rows = _by_row(matrix), {_key(row): row for row in stored}
    matrix.cells = [one for key, own in cells.items() if key not in rows or _is_stale(rows[key], own) for one in own]
    return list(cells)


def merge(order: Iterable[tuple[str, ...]], stored: Iterable[Row], fresh: Iterable[Row]) -> list[Row]:
    """The rows of these keys: fresh ones before stored ones. What the matrix no longer has is left out."""
    rows = {_key(row): row for row in (*stored, *fresh)}
    return [rows[key] for key in order if key in rows]


def _is_stale(row: Row, cells: Sequence[Resolved]) -> bool:
    """Whether its versions are not today's, or a number that it should have is not there."""
    if all(resolved.reason is not None for resolved in cells):
        return bool(row["refused"] != cells[-1].reason)
    if changed(row["versions"]):
        return True
    kinds = {KINDS[not resolved.cell.adaptive] for resolved in cells}
    seeds = {resolved.cell.seed for resolved in cells}
    return any(row[kind] is None for kind in kinds) or (len(kinds) == 2 and row["pairs"] < len(seeds))


def _by_row(matrix: Matrix) -> dict[tuple[str, ...], list[Resolved]]:
    found: dict[tuple[str, ...], list[Resolved]] = {}
    for resolved in matrix.cells:
        found.setdefault(row_key(resolved.cell), []).append(resolved)
    return found


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in NAMES)
