# SPDX-License-Identifier: Apache-2.0
"""What a paper says, held against a run: a number inside an interval, or an order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from splitguard.errors import BadSetting
from splitguard.matrix import Record, Results
from splitguard.metrics.stats import t_interval
from splitguard.seeding import numpy_generator

__all__ = ["Finding", "judge"]

Array = npt.NDArray[np.float64]
#: Metrics whose smaller values are the stronger attack.
SMALLER_IS_STRONGER = ("mse", "lpips")
#: Shares of all test rows, so that who was right is known but for the order.
ON_TEST_ROWS = ("accuracy", "stolen_accuracy")
REDRAWS = 10_000


@dataclass(frozen=True)
class Finding:
    """One line of a reproduction.

    Attributes:
        what: in words.
        metric: as in results.csv.
        published: the paper's number, or None where only an order is claimed.
        ours: mean over victims (and seeds), or None where nothing was run.
        low, high: 95 % interval of the mean over redraws of as many victims as the paper had; of a metric that a
            record has one of, Student's t over seeds within 0 and 1, and None with one seed.
        n: victims, test rows or seeds behind ``ours``.
        fidelity: ``published-interval``, ``order-only`` or ``not run``.
        holds: the published number lies in the interval or ours is the stronger attack; the order is the paper's.
    """

    what: str
    metric: str
    published: float | None
    ours: float | None
    low: float | None
    high: float | None
    n: int
    fidelity: str
    holds: bool | None


def judge(claim: Mapping[str, Any], results: Results, *, victims: int) -> list[Finding]:
    """The findings of one claim: one for a published number, one for each step of an order.

    Args:
        claim: ``what``, ``metric`` and either ``where`` (column: value) with ``published``, or ``rising``, a list of
            ``where`` in which the metric rises; ``scale`` multiplies ours into the paper's units; ``margin`` is by how
            much each step of an order must rise.
        results: of the paper's matrix.
        victims: how many the paper had.

    Raises:
        BadSetting: for a claim that is neither.
    """
    scale = float(claim.get("scale", 1))
    if "rising" in claim:
        return _order(claim, results, scale, victims)
    if "published" not in claim:
        raise BadSetting(f"a claim has published or rising; got {sorted(claim)}")
    values, each = _values(claim["where"], claim["metric"], results)
    if not len(values):
        return [_not_run(claim, float(claim["published"]))]
    values = scale * values
    low, high = _interval(values, each, victims)
    ours, published = float(values.mean()), float(claim["published"])
    smaller = claim["metric"] in SMALLER_IS_STRONGER
    stronger = ours <= published if smaller else ours >= published
    inside = low is not None and high is not None and low <= published <= high
    found = (ours, low, high, len(values))
    return [Finding(claim["what"], claim["metric"], published, *found, "published-interval", inside or stronger)]


def _interval(values: Array, each: bool, victims: int) -> tuple[float | None, float | None]:
    """Of the mean: over redraws where there is a value for each victim, else over seeds."""
    if each:
        return redrawn(values, victims)
    over_seeds = t_interval(values.tolist())
    return (None, None) if over_seeds is None else (max(over_seeds.low, 0.0), min(over_seeds.high, 1.0))


def redrawn(values: Array, victims: int) -> tuple[float, float]:
    """The 95 % interval of the mean of ``victims`` values drawn with replacement from ours."""
    draws = numpy_generator(0, "redrawn").integers(len(values), size=(REDRAWS, victims))
    low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _order(claim: Mapping[str, Any], results: Results, scale: float, victims: int) -> list[Finding]:
    out: list[Finding] = []
    before = -np.inf
    for where in claim["rising"]:
        values, each = _values(where, claim["metric"], results)
        what = f"{claim['what']}: {', '.join(str(v) for v in where.values())}"
        if not len(values):
            out.append(_not_run({**claim, "what": what}, None))
            continue
        values = scale * values
        ours = float(values.mean())
        holds = None if before == -np.inf else ours >= before + float(claim.get("margin", 0))
        found = (ours, *_interval(values, each, victims), len(values))
        out.append(Finding(what, claim["metric"], None, *found, "order-only", holds))
        before = ours
    return out


def _not_run(claim: Mapping[str, Any], published: float | None) -> Finding:
    return Finding(claim["what"], claim["metric"], published, None, None, None, 0, "not run", None)


def _values(where: Mapping[str, Any], metric: str, results: Results) -> tuple[Array, bool]:
    """The metric of every victim, or test row, of the records that match, and True.

    Where there are neither, as for an area under a curve: one rate a record, and False.
    """
    found: list[Array] = []
    each = True
    for record in results.records:
        if record.status != "ok" or not all(_matches(record, name, wanted) for name, wanted in where.items()):
            continue
        arrays = results.victims(record) or {}
        value = record.values.get(metric)
        if f"score_{metric}" in arrays:
            found.append(np.asarray(arrays[f"score_{metric}"], dtype=np.float64))
        elif metric == "label_accuracy" and "guess_labels" in arrays:
            found.append((arrays["guess_labels"] == arrays["truth_labels"]).astype(np.float64))
        elif metric in ON_TEST_ROWS and value is not None:
            rows = int(record.cell.data["test"])
            found.append((np.arange(rows) < round(float(value) * rows)).astype(np.float64))
        elif value is not None:
            found.append(np.array([float(value)]))
            each = False
    return (np.concatenate(found) if found else np.empty(0)), each


def _matches(record: Record, name: str, wanted: Any) -> bool:
    """Whether a column of results.csv, or a training setting written ``train.epochs``, has the wanted value."""
    if name.startswith("train."):
        return bool(record.cell.training[name.removeprefix("train.")] == wanted)
    row = record.row()
    if name not in row:
        raise BadSetting(f"results.csv has no column {name!r}; where: names one of {', '.join(row)}")
    return bool(row[name] == wanted)


def holding(findings: Sequence[Finding]) -> bool:
    """Whether nothing that was run contradicts the paper."""
    return all(f.holds is not False for f in findings)
