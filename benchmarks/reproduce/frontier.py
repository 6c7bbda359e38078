# SPDX-License-Identifier: Apache-2.0
"""Two trades of utility against leak, compared at equal utility, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["excess"]

Point = tuple[float, float]


def excess(line: Sequence[Point], others: Sequence[Point]) -> float | None:
    """By how much ``others`` leak more than ``line`` does at their utility, on average; negative where they leak less.

        mean over (u, l) of others with u in the range of line's utilities of   l - line(u)

    with line(u) linear between neighbouring utilities. A point beyond that range is compared with nothing, and is left
    out. Points of equal utility count as one, with their mean leak.

    Args:
        line: (utility, leak) of one defense at its settings, and of no defense, all of one seed.
        others: of another defense, the same seed.

    Returns:
        In units of the leak; None if no point is left, or the line is a point.

    >>> excess([(0.9, 1.0), (0.8, 0.5)], [(0.85, 0.8), (0.7, 0.5)])
    0.050000000000000044
    """
    leaks: dict[float, list[float]] = {}
    for utility, leak in line:
        leaks.setdefault(utility, []).append(leak)
    at = sorted(leaks)
    means = [float(np.mean(leaks[utility])) for utility in at]
    within = [(u, leak) for u, leak in others if len(at) > 1 and at[0] <= u <= at[-1]]
    return float(np.mean([leak - np.interp(u, at, means) for u, leak in within])) if within else None
