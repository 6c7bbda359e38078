# SPDX-License-Identifier: Apache-2.0
"""``splitguard cuts`` and ``splitguard calibrate``."""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console
from rich.table import Table

from splitguard.errors import BadSetting

__all__ = ["calibrate", "cuts"]


def shape_of(text: str) -> tuple[int, ...]:
    """``"3x32x32"`` as (3, 32, 32); raises `BadSetting`."""
    parts = text.lower().split("x")
    if not all(p.isdigit() and int(p) > 0 for p in parts):
        raise BadSetting(f"--input is a shape such as 3x32x32; got {text!r}")
    return tuple(int(p) for p in parts)


def cuts(model: str, input_text: str, *, classes: int, as_json: bool) -> None:
    """Prints every legal cut of a model, in network order."""
    from splitguard.engine.cut import legal_cuts
    from splitguard.models import make_model

    shape = shape_of(input_text)
    found = legal_cuts(make_model(model, input_shape=shape, classes=classes, seed=0), shape)
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
    Console().print(table)


def calibrate(epsilon: float, delta: float, releases: list[int], clip: float, *, as_json: bool) -> None:
    """Prints the sigma that gives ``epsilon``, for each adjacency and number of releases."""
    from splitguard import privacy

    rows = [
        {
            "adjacency": adjacency,
            "releases": times,
            "sigma": privacy.sigma(epsilon=epsilon, clip=clip, releases=times, delta=delta, adjacency=adjacency),
            "sigma_prv": privacy.sigma_prv(
                epsilon=epsilon, clip=clip, releases=times, delta=delta, adjacency=adjacency
            ),
        }
        for adjacency in ("replace-one", "zero-out")
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
    Console().print(table)
