# SPDX-License-Identifier: Apache-2.0
"""How the tables of the suite write a number, an interval, a deployment and a line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["Row", "interval", "line", "number", "place"]

#: One line of a table, as it is stored.
Row = dict[str, Any]


def number(value: float | None, digits: int = 3) -> str:
    """Empty for None: missing is not zero."""
    return "" if value is None else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None) -> str:
    """``[low, high]``; empty where there is none."""
    return "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def place(row: Row) -> str:
    """The deployment of a row: its mode, who owns the labels where the server does, and its cuts."""
    owner = ", labels at the server" if row["labels"] == "server" else ""
    return f"{row['mode']}{owner}, {row['cut']}"


def line(fields: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(fields)} |"
