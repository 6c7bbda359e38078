# SPDX-License-Identifier: Apache-2.0
"""What a paper says, held against a run: a number inside an interval, an order, or the better of two trades."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paired import no_worse
from benchmarks.reproduce.frontier import excess
from benchmarks.reproduce.values import Array, Run, by_seed, steps_of, values_of
from splitguard.errors import BadSetting
from splitguard.metrics import paired_difference
from splitguard.metrics.stats import t_interval
from splitguard.seeding import numpy_generator

__all__ = ["Finding", "judge"]

#: Where the benchmarks that run a paper's own algorithm store what they found.
RESULTS = Path(__file__).parents[1] / "results"
#: Metrics whose smaller values are the stronger attack.
SMALLER_IS_STRONGER = ("mse", "lpips")
REDRAWS = 10_000


@dataclass(frozen=True)
class Finding:
    """One line of a reproduction.

    Attributes:
        what: in words.
        metric: as in results.csv.
        published: the paper's number, or None where only an order is claimed; of ``reference-run`` that of the paper's
            algorithm on the same network and images.
        ours: mean over victims (and seeds), or None where nothing was run.
        low, high: 95 % interval of the mean over redraws of as many victims as the paper had; of a metric that a
            record has one of, Student's t over seeds within 0 and 1, and None with one seed.
        n: victims, test rows or seeds behind ``ours``.
        fidelity: ``reference-run``, ``published-interval``, ``published-factor``, ``order-only`` or ``not run``.
        holds: the published number lies in the interval or ours is the stronger attack; the order is the paper's; ours
            is no worse than the reference, by the one-sided 95 % limit of the paired difference.
        clear: of an order, whether the seeds support what ``holds`` says of this step: the one-sided 95 % limit of the
            difference, paired seed by seed, lies on that side; None where fewer than two seeds have both.
        steps: the most that the attack of any of its records took, tuning included; None where that is not known.
        factor: of a published number that ours may miss by so much: it holds within it, whatever the interval.
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
    clear: bool | None = None
    steps: int | None = None
    factor: float | None = None


def judge(claim: Mapping[str, Any], results: Run, *, victims: int | None) -> list[Finding]:
    """The findings of one claim: one for a published number, one for each step of an order, one for two trades.

    Args:
        claim: ``what``, ``metric`` and either ``where`` (column: value) with ``published``, or ``rising``, a list of
            ``where`` in which the metric rises, or ``reference``, the stored result of a benchmark that ran the paper's
            own algorithm beside ours (`benchmarks.paired`; ``case`` names one of several in it), or ``utility``,
            another metric, with ``line`` and ``others``, lists of ``where``: at equal utility the line has less of the
            metric (see `excess`). ``scale`` multiplies ours into the paper's units; ``margin`` is by how much each step
            of an order must rise; ``factor`` is how many times a published error ours may be, or by what ours may be
            divided where larger values are the stronger attack.
        results: of the paper's matrix.
        victims: how many the paper had; None where it does not say, and an interval is for as many as ours.

    Raises:
        BadSetting: for a claim that is none of these.
    """
    scale = float(claim.get("scale", 1))
    if "rising" in claim:
        return _order(claim, results, scale, victims)
    if "line" in claim:
        return [_trade(claim, results)]
    if "reference" in claim:
        return [_beside(claim)]
    if "published" not in claim:
        raise BadSetting(f"a claim has published, rising, line or reference; got {sorted(claim)}")
    values, each = values_of(claim["where"], claim["metric"], results)
    if not len(values):
        return [_not_run(claim, float(claim["published"]))]
    values = scale * values
    low, high = _interval(values, each, victims)
    ours, published = float(values.mean()), float(claim["published"])
    smaller = claim["metric"].split("@")[0] in SMALLER_IS_STRONGER
    factor = float(claim.get("factor", 1))
    stronger = ours <= factor * published if smaller else factor * ours >= published
    inside = low is not None and high is not None and low <= published <= high and "factor" not in claim
    kind = "published-factor" if "factor" in claim else "published-interval"
    found = (published, ours, low, high, len(values), kind, inside or stronger)
    steps = steps_of(claim["where"], claim["metric"], results)
    return [Finding(claim["what"], claim["metric"], *found, steps=steps, factor=factor if "factor" in claim else None)]


def _interval(values: Array, each: bool, victims: int | None) -> tuple[float | None, float | None]:
    """Of the mean: over redraws where there is a value for each victim, else over seeds."""
    if each:
        return redrawn(values, len(values) if victims is None else victims)
    over_seeds = t_interval(values.tolist())
    return (None, None) if over_seeds is None else (max(over_seeds.low, 0.0), min(over_seeds.high, 1.0))


def redrawn(values: Array, victims: int) -> tuple[float, float]:
    """The 95 % interval of the mean of ``victims`` values drawn with replacement from ours."""
    draws = numpy_generator(0, "redrawn").integers(len(values), size=(REDRAWS, victims))
    low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _order(claim: Mapping[str, Any], results: Run, scale: float, victims: int | None) -> list[Finding]:
    out: list[Finding] = []
    before: Mapping[str, Any] | None = None
    last, margin = -np.inf, float(claim.get("margin", 0))
    for where in claim["rising"]:
        values, each = values_of(where, claim["metric"], results)
        what = f"{claim['what']}: {', '.join(str(v) for v in where.values())}"
        if not len(values):
            out.append(_not_run({**claim, "what": what}, None))
            continue
        values = scale * values
        ours = float(values.mean())
        holds, clear = None, None
        if before is not None:
            holds = ours >= last + margin
            one, other = (by_seed(w, claim["metric"], results) for w in (where, before))
            clear = _clear([scale * (one[s] - other[s]) - margin for s in one if s in other], holds)
        found = (ours, *_interval(values, each, victims), len(values))
        steps = steps_of(where, claim["metric"], results)
        out.append(Finding(what, claim["metric"], None, *found, "order-only", holds, clear, steps))
        before, last = where, ours
    return out


def _clear(differences: Sequence[float], rises: bool) -> bool | None:
    """Whether differences, one a seed, are above 0 by their one-sided 95 % limit, or below it where it falls."""
    if len(differences) < 2:
        return None
    found = paired_difference(differences, [0.0] * len(differences))
    assert found.at_least is not None
    assert found.at_most is not None
    return found.at_least > 0 if rises else found.at_most < 0


def _trade(claim: Mapping[str, Any], results: Run) -> Finding:
    """How much more the others leak at equal utility: the mean over seeds, with Student's t."""

    def points(wheres: Sequence[Mapping[str, Any]], seed: int) -> list[tuple[float, float]]:
        both = [[by_seed(w, claim[name], results).get(seed) for name in ("utility", "metric")] for w in wheres]
        return [(u, leak) for u, leak in both if u is not None and leak is not None]

    seeds = sorted({seed for where in claim["line"] for seed in by_seed(where, claim["metric"], results)})
    each = [excess(points(claim["line"], seed), points(claim["others"], seed)) for seed in seeds]
    found = [float(claim.get("scale", 1)) * value for value in each if value is not None]
    if not found:
        return _not_run(claim, None)
    ours, over = float(np.mean(found)), t_interval(found)
    low, high = (None, None) if over is None else (over.low, over.high)
    holds = ours >= float(claim.get("margin", 0))
    name = f"excess of {claim['metric']} at equal {claim['utility']}"
    clear = _clear([value - float(claim.get("margin", 0)) for value in found], holds)
    return Finding(claim["what"], name, None, ours, low, high, len(found), "order-only", holds, clear)


def _beside(claim: Mapping[str, Any]) -> Finding:
    """Ours and the paper's own algorithm on the same images, as a benchmark stored it."""
    path = RESULTS / f"{claim['reference']}.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    paired = stored.get("cases", {}).get(claim["case"], {}) if "case" in claim else stored.get("paired", {})
    found = paired.get(claim["metric"])
    if found is None:
        return _not_run(claim, None)
    holds = no_worse(paired, claim["metric"])
    told = (found["reference"], found["ours"], None, None, found["n"], "reference-run", holds)
    return Finding(claim["what"], claim["metric"], *told)


def _not_run(claim: Mapping[str, Any], published: float | None) -> Finding:
    return Finding(claim["what"], claim["metric"], published, None, None, None, 0, "not run", None)


def holding(findings: Sequence[Finding]) -> bool:
    """Whether nothing that was run contradicts the paper."""
    return all(f.holds is not False for f in findings)
