# SPDX-License-Identifier: Apache-2.0
"""The values of a metric among a run's records: of every victim or test row, or one mean a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from splitguard.errors import BadSetting
from splitguard.matrix import Record

__all__ = ["Array", "Run", "by_seed", "steps_of", "values_of"]

Array = npt.NDArray[np.float64]
#: Shares of all test rows, so that who was right is known but for the order.
ON_TEST_ROWS = ("accuracy", "stolen_accuracy")


class Run(Protocol):
    """What claims are held against: `splitguard.matrix.Results`, or what `follow` found."""

    @property
    def records(self) -> Sequence[Record]:
        """One a cell and phase."""

    def victims(self, record: Record) -> Mapping[str, npt.NDArray[Any]] | None:
        """As `splitguard.matrix.Results.victims`."""


def values_of(where: Mapping[str, Any], metric: str, results: Run) -> tuple[Array, bool]:
    """The metric of every victim, or test row, of the records that match, and True.

    Where there are neither, as for an area under a curve: one rate a record, and False.
    """
    found = list(_found(where, metric, results))
    return (
        np.concatenate([values for _, values, _ in found]) if found else np.empty(0),
        all(each for _, _, each in found),
    )


def by_seed(where: Mapping[str, Any], metric: str, results: Run) -> dict[int, float]:
    """The mean of the metric over the records that match, for each seed that has one."""
    found: dict[int, list[float]] = {}
    for seed, values, _ in _found(where, metric, results):
        found.setdefault(seed, []).append(float(values.mean()))
    return {seed: float(np.mean(means)) for seed, means in found.items()}


def steps_of(where: Mapping[str, Any], metric: str, results: Run) -> int | None:
    """The most optimizer steps that the attack of any record behind the metric took; None where none says."""
    spent = [
        record.extra["budget"]["steps"]
        for record in results.records
        if record.status == "ok"
        and all(_matches(record, name, wanted) for name, wanted in where.items())
        and record.values.get(metric) is not None
        and "budget" in record.extra
    ]
    return max(spent, default=None)


def _found(where: Mapping[str, Any], metric: str, results: Run) -> list[tuple[int, Array, bool]]:
    """Of each record that matches and has the metric: its seed, its values, and whether they are of rows."""
    out: list[tuple[int, Array, bool]] = []
    for record in results.records:
        if record.status != "ok" or not all(_matches(record, name, wanted) for name, wanted in where.items()):
            continue
        arrays, seed = results.victims(record) or {}, int(record.cell.seed)
        value = record.values.get(metric)
        if f"score_{metric}" in arrays:
            out.append((seed, np.asarray(arrays[f"score_{metric}"], dtype=np.float64), True))
        elif metric == "label_accuracy" and "guess_labels" in arrays:
            out.append((seed, (arrays["guess_labels"] == arrays["truth_labels"]).astype(np.float64), True))
        elif metric in ON_TEST_ROWS and value is not None:
            rows = int(record.cell.data["test"])
            out.append((seed, (np.arange(rows) < round(float(value) * rows)).astype(np.float64), True))
        elif value is not None:
            out.append((seed, np.array([float(value)]), False))
    return out


def _matches(record: Record, name: str, wanted: Any) -> bool:
    """Whether a column of results.csv, or a training setting written ``train.epochs``, has the wanted value."""
    if name.startswith("train."):
        return bool(record.cell.training[name.removeprefix("train.")] == wanted)
    row = record.row()
    if name not in row:
        raise BadSetting(f"results.csv has no column {name!r}; where: names one of {', '.join(row)}")
    return bool(row[name] == wanted)
