# SPDX-License-Identifier: Apache-2.0
"""A head with defenses behind it, as a defense further down the list sees it before training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from splitguard.engine.defense import Defense
from splitguard.seeding import generator as seeded

__all__ = ["SentThrough"]


class SentThrough(nn.Module):
    """A head followed by one draw of what some defenses would release; the draws are fixed, and of nothing private."""

    def __init__(self, head: nn.Module, parts: Sequence[Defense]) -> None:
        super().__init__()
        self.head = head
        self._parts = tuple(parts)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, *cut1)."""
        out: Tensor = self.head(inputs)
        for number, part in enumerate(self._parts):
            out = part.released_like(out, seeded(0, "bind", number))
        return out
