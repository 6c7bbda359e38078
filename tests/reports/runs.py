# SPDX-License-Identifier: Apache-2.0
"""Writes an invented run through the matrix's own store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from splitguard.matrix import Cell, Record, Store
from splitguard.matrix.record import phases
from tests.reports.cases import CASES, ENVIRONMENT, SEEDS, SOURCE, TITLE, Case, cells
from tests.reports.outcomes import outcome


def write_run(
    folder: Path,
    *,
    cases: Sequence[Case] = CASES,
    seeds: Sequence[int] = SEEDS,
    change: Callable[[Record], Record] = lambda record: record,
    **matrix: Any,
) -> Path:
    """The run folder; ``change`` may alter each record, and ``matrix`` what matrix.json says."""
    store = Store(folder)
    everything: list[Cell] = []
    with store.lock(), mock.patch("os.fsync"):  # nobody pulls the plug on a test
        for case in cases:
            for seed in seeds:
                for cell in cells(case, seed):
                    everything.append(cell)
                    for phase in phases(cell.goal) if case.run else ():
                        record, arrays = outcome(case, cell, phase)
                        store.write(change(record), arrays)
        store.write_matrix(
            {
                "title": TITLE,
                "demonstration": True,
                "key_version": 1,
                "environment": ENVIRONMENT,
                "seeds": list(seeds),
                "source": SOURCE,
                "cells": [cell.to_json() for cell in everything],
                **matrix,
            }
        )
    return folder
