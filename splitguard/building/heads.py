# SPDX-License-Identifier: Apache-2.0
"""The client's head as it was at many moments, called as one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from splitguard.engine.view import View
from splitguard.engine.wire import DEPLOYED, Phase, State

__all__ = ["Heads", "spread"]

#: Rows that go through a head at once, and auxiliary rows from which the statistics of a batch are estimated.
CHUNK, SAMPLE = 64, 64


class Heads:
    """The heads that made what a view holds, each in eval mode and without gradients.

    While it is trained, a head with BatchNorm normalises each batch by its own statistics, which nobody but its client
    knows. Its running averages are a poor stand-in: they lag behind, and begin at 0 and 1. So releases of a training in
    which the head moved are explained with the statistics of auxiliary rows under the snapshot's own weights.

    Args:
        view: must grant the head, and auxiliary rows.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._kept: dict[int, nn.Module] = {}
        self._normalised = view.phase is Phase.TRAINING and self._moved()

    def at(self, snapshot: int) -> nn.Module:
        """One head; not to be written to."""
        if snapshot not in self._kept:
            head = self._view.head(None if snapshot == DEPLOYED else snapshot)
            if self._normalised:
                _normalise_anew(head, spread(self._view.aux.inputs, SAMPLE))
            self._kept[snapshot] = head
        return self._kept[snapshot]

    def all_at(self, snapshots: Tensor) -> Callable[[Tensor], Tensor]:
        """The function from inputs (E, *in) to smashed data (E, *cut) in which row e goes through ``snapshots[e]``.

        One head that serves all rows is called once, on the batch; different heads are called as one through vmap: on
        a small network a loop over them takes five times as long.
        """
        numbers = [int(s) for s in snapshots]
        frame = self.at(numbers[0])
        if len(set(numbers)) == 1:
            return frame
        states = {n: self.at(n).state_dict() for n in set(numbers)}
        stacked = {name: torch.stack([states[n][name] for n in numbers]) for name in states[numbers[0]]}

        def single(state: State, row: Tensor) -> Tensor:
            out: Tensor = functional_call(frame, state, (row[None],))
            return out[0]

        every: Callable[[State, Tensor], Tensor] = vmap(single)
        return lambda inputs: every(stacked, inputs)

    def through(self, snapshot: int, inputs: Tensor) -> Tensor:
        """(N, *cut): inputs (N, *in) through one head, a few at a time and without gradients."""
        head = self.at(snapshot)
        with torch.no_grad():
            return torch.cat([head(part) for part in torch.split(inputs, CHUNK)])

    def _moved(self) -> bool:
        """Whether the head has BatchNorm and was trained while the view's rows were sent."""
        deployed = self._view.head()
        known = self._view.releases.head
        known = known[known != DEPLOYED]
        if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in deployed.modules()) or len(known) == 0:
            return False
        before = self._view.head(int(known[0]))
        return any(not torch.equal(a, b) for a, b in zip(before.parameters(), deployed.parameters(), strict=True))


def _normalise_anew(head: nn.Module, inputs: Tensor) -> None:
    """Sets BatchNorm's running statistics to those of ``inputs`` as one batch; other layers stay in eval mode."""
    norms = [m for m in head.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the plain mean over batches, here of one
    with torch.no_grad():
        head(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum


def spread(rows: Tensor, count: int) -> Tensor:
    """At most ``count`` of the rows, evenly spaced."""
    return rows[torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()]
