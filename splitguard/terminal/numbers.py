# SPDX-License-Identifier: Apache-2.0
"""``splitguard cuts`` and ``splitguard calibrate``."""

from __future__ import annotations

import dataclasses
import json
from typing import get_args

from rich.table import Table

from splitguard.errors import BadSetting, SplitguardError
from splitguard.privacy.accounting import Adjacency
from splitguard.terminal.console import plain_console
from splitguard.terminal.single import as_entry

__all__ = ["calibrate", "cuts"]


#: Below it, Opacus' PRV accountant takes minutes, then more memory than there is: its grid grows as 1 / epsilon.
LEAST_EPSILON = 1e-3


def shape_of(text: str, option: str) -> tuple[int, ...]:
    """``"3x32x32"`` as (3, 32, 32); raises `BadSetting`, which names the option that the text stands in."""
    parts = text.lower().split("x")
    if not all(p.isascii() and p.isdecimal() and int(p) > 0 for p in parts):
        raise BadSetting(f"{option} is a shape such as 3x32x32; got {text!r}")
    return tuple(int(p) for p in parts)


def cuts(model: str, input_text: str, *, classes: int, as_json: bool) -> None:
    """Prints every legal cut of a model, in network order."""
    from splitguard.engine.cut import legal_cuts
    from splitguard.models import make_model

    shape = shape_of(input_text, "--input")
    found = legal_cuts(make_model(as_entry(model, "MODEL"), input_shape=shape, classes=classes, seed=0), shape)
    if as_json:
        print(json.dumps([dataclasses.asdict(c) for c in found]))
        return
    table = Table(title=f"Legal cuts of {model}, input {input_text}")
    for heading, side in (("cut", "left"), ("shape", "left"), ("client parameters", "right"), ("client FLOPs", "right"),
                          ("bytes per sample", "right")):  # fmt: skip
        table.add_column(heading, justify="left" if side == "left" else "right", overflow="fold")
    for c in found:
        table.add_row(
            c.name, "x".join(map(str, c.shape)), f"{c.client_params:,}", f"{c.client_flops:,}", f"{c.bytes:,}"
        )
    plain_console().print(table)


def _prv(epsilon: float, delta: float, releases: int, clip: float, adjacency: Adjacency) -> float:
    from splitguard import privacy

    try:
        return privacy.sigma_prv(epsilon=epsilon, clip=clip, releases=releases, delta=delta, adjacency=adjacency)
    except SplitguardError:
        raise
    except (MemoryError, ValueError, ArithmeticError) as error:  # Opacus, at the ends of what it can count
        raise BadSetting(
            f"Opacus' PRV cannot count --epsilon {epsilon:g} at --delta {delta:g} and --releases {releases}: "
            f"{error}. Give a larger epsilon or delta, or fewer releases"
        ) from None


def calibrate(epsilon: float, delta: float, releases: list[int], clip: float, *, as_json: bool) -> None:
    """Prints the sigma that gives ``epsilon``, for each adjacency and number of releases."""
    from splitguard import privacy

    if 0 < epsilon < LEAST_EPSILON:
        raise BadSetting(
            f"--epsilon must be at least {LEAST_EPSILON:g}, for Opacus' PRV accountant cannot count finer; got "
            f"{epsilon:g}. The exact sigma alone: splitguard.privacy.sigma, in Python"
        )
    rows = [
        {
            "adjacency": adjacency,
            "releases": times,
            "sigma": privacy.sigma(epsilon=epsilon, clip=clip, releases=times, delta=delta, adjacency=adjacency),
            "sigma_prv": _prv(epsilon, delta, times, clip, adjacency),
        }
        for adjacency in get_args(Adjacency)
        for times in releases
    ]
    if as_json:
        print(json.dumps({"epsilon": epsilon, "delta": delta, "clip": clip, "rows": rows}))
        return
    table = Table(
        title=f"Noise for epsilon {epsilon:g}, delta {delta:g}, rows clipped to L2 norm {clip:g}",
        caption="Exact: Gaussian differential privacy, composed over T releases of one row. PRV: Opacus' accountant, "
        "an upper bound, as a cross-check. No amplification by subsampling: the server sees whose row it is.",
    )
    for heading in ("adjacency", "releases T", "sigma, exact", "sigma, Opacus PRV"):
        table.add_column(heading, justify="left" if heading == "adjacency" else "right")
    for row in rows:
        table.add_row(str(row["adjacency"]), str(row["releases"]), f"{row['sigma']:.4f}", f"{row['sigma_prv']:.4f}")
    plain_console().print(table)
