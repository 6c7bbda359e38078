# SPDX-License-Identifier: Apache-2.0
"""The rows that crossed the cut last, in bounded memory: what an attack goes on training with after the session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from splitguard.engine.wire import Exchange

__all__ = ["Recent"]


class Recent:
    """The smashed data of the latest rows, whichever they were, with their labels where those are seen.

    Args:
        rows: kept at most; 0 keeps none.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._ids = torch.empty(0, dtype=torch.int64)
        self._smashed: Tensor | None = None
        self._labels: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self._smashed is None else len(self._smashed)

    def add(self, exchange: Exchange) -> None:
        """Takes all rows of an exchange, and drops the oldest beyond the limit."""
        if self._rows:
            self._ids = _latest(self._ids, exchange.ids, self._rows)
            self._smashed = _latest(self._smashed, exchange.smashed, self._rows)
            self._labels = None if exchange.labels is None else _latest(self._labels, exchange.labels, self._rows)

    def draw(
        self, count: int, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor | None]:
        """At most ``count`` rows (n, *cut), none twice, and their labels (n,), None where they are not seen.

        They are kept in main memory and handed over on ``device``.

        Raises:
            IndexError: if nothing was kept.
        """
        if self._smashed is None:
            raise IndexError("nothing was kept; ask len() first")
        chosen = torch.randperm(len(self), generator=generator)[:count]
        labels = None if self._labels is None else self._labels[chosen].to(device)
        return self._smashed[chosen].to(device), labels

    def last(self) -> tuple[Tensor, Tensor]:
        """Ids (n,) of the rows kept, each once, and what was sent of it last (n, *cut).

        Raises:
            IndexError: if nothing was kept.
        """
        if self._smashed is None:
            raise IndexError("nothing was kept; ask len() first")
        at = {int(row): place for place, row in enumerate(self._ids)}
        return torch.tensor(list(at)), self._smashed[list(at.values())]

    def state_dict(self) -> dict[str, Any]:
        """What is kept."""
        return {"ids": self._ids, "smashed": self._smashed, "labels": self._labels}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._ids, self._smashed, self._labels = state["ids"], state["smashed"], state["labels"]


def _latest(kept: Tensor | None, more: Tensor, rows: int) -> Tensor:
    """On the CPU, so that what is kept does not crowd the device that trains."""
    fresh = more.detach().cpu()
    return (fresh if kept is None else torch.cat([kept, fresh]))[-rows:].clone()
