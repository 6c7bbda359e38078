# SPDX-License-Identifier: Apache-2.0
"""Paired timing: two ways of doing the same work in turn, A B A B, with an A A control beside it; JSON out."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binom

from benchmarks.versions import named

__all__ = ["paired", "seconds", "write"]


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def paired(one: Callable[[], object], other: Callable[[], object], *, times: int) -> dict[str, float]:
    """The median of ``one / other``, and of ``other / other`` as the control, each with its 95 % interval.

    Each round runs one, other, other, one, and the next begins the other way round, so that a machine that warms up or
    slows down favours neither. The intervals are between order statistics of the rounds' ratios, without assumptions.

    Args:
        one: the work in question.
        other: what it is compared with.
        times: rounds.
    """
    one(), other()  # warm up
    ratios, control, first, second = [], [], [], []
    for number in range(times):
        if number % 2:
            b, a, d, c = seconds(other), seconds(one), seconds(one), seconds(other)
        else:
            a, b, c, d = seconds(one), seconds(other), seconds(other), seconds(one)
        ratios.append((a + d) / (b + c))
        control.append(b / c)
        first.append((a + d) / 2)
        second.append((b + c) / 2)
    low, high = _ranks(times)
    return {
        "ratio": statistics.median(ratios),
        "ratio_low": sorted(ratios)[low],
        "ratio_high": sorted(ratios)[high],
        "control": statistics.median(control),
        "control_low": sorted(control)[low],
        "control_high": sorted(control)[high],
        "seconds": statistics.median(first),
        "seconds_other": statistics.median(second),
        "difference": statistics.median([a - b for a, b in zip(first, second, strict=True)]),
    }


def _ranks(count: int) -> tuple[int, int]:
    """Positions among ``count`` sorted values that hold the median between them with 95 % confidence."""
    low = max(int(binom.ppf(0.025, count, 0.5)) - 1, 0)
    return low, count - 1 - low


def write(path: Path | None, results: dict[str, Any], used: Iterable[str] = ()) -> None:
    """Prints the results as JSON and writes them if a path is given.

    With them stand the machine they were measured on, and the versions of the attacks and defenses ``used``.
    """
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    text = json.dumps({"on": machine, "versions": named(*used), **results}, indent=1)
    print(text)
    if path is not None:
        path.write_text(text + "\n")
