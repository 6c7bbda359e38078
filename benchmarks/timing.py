# SPDX-License-Identifier: Apache-2.0
"""Paired timing: two ways of doing the same work in turn, A B A B, with an A A control beside it; JSON out."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["paired", "write"]


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def paired(one: Callable[[], object], other: Callable[[], object], *, times: int) -> dict[str, float]:
    """The median of ``one / other``, pair by pair, and of ``other / other`` as the control.

    Args:
        one: the work in question.
        other: what it is compared with.
        times: pairs.
    """
    one(), other()  # warm up
    ratios, control, first, second = [], [], [], []
    for _ in range(times):
        a, b, c = seconds(one), seconds(other), seconds(other)
        ratios.append(a / b)
        control.append(c / b)
        first.append(a)
        second.append(b)
    return {
        "ratio": statistics.median(ratios),
        "ratio_low": sorted(ratios)[max(0, times // 10)],
        "ratio_high": sorted(ratios)[min(times - 1, times - 1 - times // 10)],
        "control": statistics.median(control),
        "seconds": statistics.median(first),
        "seconds_other": statistics.median(second),
        "difference": statistics.median([a - b for a, b in zip(first, second, strict=True)]),
    }


def write(path: Path | None, results: dict[str, Any]) -> None:
    """Prints the results as JSON, with the machine they were measured on, and writes them if a path is given."""
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    text = json.dumps({"on": machine, **results}, indent=1)
    print(text)
    if path is not None:
        path.write_text(text + "\n")
