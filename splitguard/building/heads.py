# SPDX-License-Identifier: Apache-2.0
"""The client's head as it was at many moments, called as one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from splitguard.engine.view import View
from splitguard.engine.wire import State

__all__ = ["DEPLOYED", "heads", "through"]

#: Stands for the head as deployed after training, where a release's own snapshot was not kept.
DEPLOYED = -1
CHUNK = 64


def heads(view: View, at: Tensor) -> Callable[[Tensor], Tensor]:
    """The function from inputs (E, *in) to smashed data (E, *cut) in which row e goes through snapshot ``at[e]``.

    One head that serves all rows is called once, on the batch; different heads are called as one through vmap: on a
    small network a loop over them takes five times as long. The heads are in eval mode and need no gradients.
    """
    known = at != DEPLOYED
    if bool((at == at[0]).all()):
        one: Callable[[Tensor], Tensor] = view.head(int(at[0]) if bool(known[0]) else None)
        return one
    frame = view.head()
    deployed: State = {k: v.detach() for k, v in frame.state_dict().items()}
    snapshots = view.head_states(at[known])
    place = torch.cumsum(known, 0) - 1
    states = {
        name: torch.where(
            known.to(v.device).view(-1, *[1] * deployed[name].ndim), v[place.clamp(min=0)], deployed[name]
        )
        for name, v in ((n, v.to(deployed[n].device)) for n, v in snapshots.items())
    }

    def single(state: State, row: Tensor) -> Tensor:
        out: Tensor = functional_call(frame, state, (row[None],))
        return out[0]

    every: Callable[[State, Tensor], Tensor] = vmap(single)
    return lambda inputs: every(states, inputs)


def through(view: View, at: int, inputs: Tensor) -> Tensor:
    """(N, *cut): inputs (N, *in) through snapshot ``at``, a few at a time and without gradients."""
    forward = heads(view, torch.tensor([at]))
    with torch.no_grad():
        return torch.cat([forward(part) for part in torch.split(inputs, CHUNK)])
