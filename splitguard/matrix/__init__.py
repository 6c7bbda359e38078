# SPDX-License-Identifier: Apache-2.0
"""The matrix: one file of deployments and attacks, planned, run once each, resumed, and scored."""

from __future__ import annotations

from splitguard.matrix.cell import KEY_VERSION, Cell, Plugin
from splitguard.matrix.matrix import Matrix
from splitguard.matrix.plan import Plan
from splitguard.matrix.reading import MatrixError
from splitguard.matrix.record import COLUMNS, TIMINGS, Record
from splitguard.matrix.results import Results, load
from splitguard.matrix.store import Store
from splitguard.matrix.summary import SUMMARY_COLUMNS

__all__ = [
    "COLUMNS",
    "KEY_VERSION",
    "SUMMARY_COLUMNS",
    "TIMINGS",
    "Cell",
    "Matrix",
    "MatrixError",
    "Plan",
    "Plugin",
    "Record",
    "Results",
    "Store",
    "load",
]
