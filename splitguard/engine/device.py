# SPDX-License-Identifier: Apache-2.0
"""Moves what an attack computes with to an accelerator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from splitguard.data.rows import Rows
from splitguard.engine.view import Known, Models, View
from splitguard.engine.wire import Releases, State

__all__ = ["on_device"]

Moved = TypeVar("Moved", Rows, Releases, Known)
#: By kind, the fields that move. Ids, epochs and steps index, and an index in main memory serves any device; updates to
#: a fed server are read layer by layer, too little at a time for an accelerator to pay.
COMPUTED = {
    Rows: ("inputs", "labels", "attributes"),
    Releases: ("smashed", "labels", "features", "returned_grad", "cut_grad"),
    Known: ("labels",),
}


def on_device(view: View, device: torch.device) -> View:
    """The same view with its rows, releases and networks on ``device``; what is read of either was read of both.

    Random numbers come from the attack's generator, which stays in main memory, so that an attack draws the same on
    every device, layers such as dropout aside; what it computes of them differs by rounding.
    """
    if device.type == "cpu":
        return view
    return replace(
        view,
        models=_models(view.models, device),
        _releases=_rows(view._releases, device),
        _context=_rows(view._context, device),
        _aux=_rows(view._aux, device),
        _known=_rows(view._known, device),
        _inputs=_rows(view._inputs, device),
        _candidates=None if view._candidates is None else view._candidates.to(device),
    )


def _rows(rows: Moved | None, device: torch.device) -> Moved | None:
    if rows is None:
        return None
    values = {name: getattr(rows, name) for name in COMPUTED[type(rows)]}
    moved: dict[str, Any] = {name: None if value is None else value.to(device) for name, value in values.items()}
    return replace(rows, **moved)


def _state(state: State, device: torch.device) -> State:
    return {name: value.to(device) for name, value in state.items()}


def _models(models: Models, device: torch.device) -> Models:
    """The same, each network moved as it is handed out; a pipeline works where its inputs are."""

    def blank_head(generator: torch.Generator) -> nn.Module:
        return models.blank_head(generator).to(device)

    def query(inputs: Tensor, generator: torch.Generator) -> Tensor:
        return models.query(inputs.to(device), generator)

    return Models(
        head=lambda snapshot: models.head(snapshot).to(device),
        body=lambda: models.body().to(device),
        tail=lambda snapshot: models.tail(snapshot).to(device),
        blank_head=blank_head,
        query=query,
        state=lambda snapshot: _state(models.state(snapshot), device),
    )
