# SPDX-License-Identifier: Apache-2.0
"""Which layers make one row of a batch depend on the other rows."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from splitguard.engine._nodes import fetch, take
from splitguard.engine._stage import Stage, build
from splitguard.engine._trace import trace
from splitguard.engine.cost import example
from splitguard.seeding import drawing

__all__ = ["mixes_rows"]

ROWS = 7  # unlike any dimension of common layers, so that rows are not taken for something else
#: What a row is replaced by, beside one minus itself. A maximum over the batch, say, shows itself only where the row
#: that is changed holds it, and a clamp only beyond its limit.
FAR = (0.0, 1.0, 1e3, -1e3)


def mixes_rows(stage: nn.Module, input_shape: Sequence[int], *, training: bool = True) -> list[str]:
    """The layers of ``stage`` that mix the rows of a batch, in network order; none for a stage that is per-sample.

    Found by trying, which proves nothing of a layer that is not named: batches in which one row is another, each row in
    turn by one minus itself, the first and the last one also by each value of `FAR`, go through a copy of the stage,
    step by step and with the same draws. A step whose result differs in another row mixes; its result is then mended,
    so that the steps after it are judged by themselves. BatchNorm that uses the statistics of the batch is always
    named, whatever the trials say.

    Args:
        stage: a stage from `split`, or any network that torch.fx can follow.
        input_shape: of one of its inputs, without the batch.
        training: in train mode, as during training; else in eval mode, as deployed.

    Raises:
        BadCut: if torch.fx cannot follow it.
    """
    twin = copy.deepcopy(stage)
    if not isinstance(twin, Stage):
        twin = build(twin, trace(twin), [])[0]
    twin.train(training)
    found = {
        number: node.meta["layer"]
        for number, node in enumerate(twin.graph.nodes)
        if node.op == "call_module" and _uses_batch_statistics(fetch(twin, str(node.target)))
    }
    here = example(twin, input_shape, rows=ROWS)
    untouched = _values(twin, here)
    replaced = [(row, 1 - here[row]) for row in range(ROWS)]
    replaced += [(row, torch.full_like(here[row], far)) for row in (0, ROWS - 1) for far in FAR]
    for row, value in replaced:
        there = here.clone()
        there[row] = value
        found |= _mixing(twin, there, row, untouched)
    return list(dict.fromkeys(name for _, name in sorted(found.items())))


def _uses_batch_statistics(layer: nn.Module) -> bool:
    return any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None)
        for part in layer.modules()
    )


def _values(stage: Stage, inputs: Tensor) -> dict[fx.Node, Any]:
    """What each step makes of the inputs, as it is before a later step works in place."""
    known: dict[fx.Node, Any] = {}
    kept: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for number, node in enumerate(stage.graph.nodes):
            if node.op != "output":
                known[node] = inputs.clone() if node.op == "placeholder" else _step(stage, number, node, known)
                kept[node] = known[node].clone() if isinstance(known[node], Tensor) else known[node]
    return kept


def _mixing(stage: Stage, there: Tensor, row: int, one: Mapping[fx.Node, Any]) -> dict[int, str]:
    """The steps through which ``row`` reaches other rows, by their number; ``one`` is without what was put there."""
    others = [r for r in range(ROWS) if r != row]
    two: dict[fx.Node, Any] = {}
    found: dict[int, str] = {}
    with torch.no_grad():
        for number, node in enumerate(stage.graph.nodes):
            if node.op == "placeholder":
                two[node] = there
            elif node.op != "output":
                two[node] = _step(stage, number, node, two)
                if _differ(one[node], two[node], others):
                    found[number] = node.meta.get("layer") or str(node)
                    two[node] = two[node].clone()
                    two[node][others] = one[node][others]
    return found


def _step(stage: Stage, number: int, node: fx.Node, known: Mapping[fx.Node, Any]) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
    with drawing(number):
        return take(node, stage, args, kwargs)


def _differ(one: Any, two: Any, rows: list[int]) -> bool:
    if not isinstance(one, Tensor) or one.ndim == 0 or one.shape[0] != ROWS or one.shape != two.shape:
        return False
    return not torch.equal(one[rows].nan_to_num(), two[rows].nan_to_num())
