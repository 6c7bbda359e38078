# SPDX-License-Identifier: Apache-2.0
"""A cell from which tests of the suite's tables make others."""

from __future__ import annotations

from splitguard.api import ATTACKS
from splitguard.matrix import Cell
from splitguard.matrix.cell import Plugin

__all__ = ["CELL", "VERSION"]

VERSION: int = vars(ATTACKS.get("white-box-inversion"))["version"]
CELL = Cell(
    data={"name": "faces", "clients": 2, "partition": "iid"},
    model={"name": "lenet"},
    mode="vanilla",
    labels="sent",
    base=("conv2",),
    cuts=("conv2",),
    defense=(),
    training={"head": "trained"},
    attack=Plugin("white-box-inversion", version=VERSION),
    goal="inputs",
    active=False,
    profile="active",
    adaptive=True,
    seed=0,
)
