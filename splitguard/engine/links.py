# SPDX-License-Identifier: Apache-2.0
"""How messages travel: the only thing that moves tensors between parties, and that counts their bytes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["Link"]


class Link:
    """Carries tensors within one process, detached from the sender's graph, and counts what crosses.

    Attributes:
        bytes: sent so far, by direction: ``up`` (client to server or fed server), ``down``, and ``handover`` (client to
            client).
    """

    def __init__(self) -> None:
        self.bytes = {"up": 0, "down": 0, "handover": 0}

    def carry(self, direction: str, message: Tensor) -> Tensor:
        """Moves one tensor; the receiver shares no graph with the sender."""
        self.bytes[direction] += message.numel() * message.element_size()
        return message.detach()

    def up(self, message: Tensor) -> Tensor:
        """From a client to the server."""
        return self.carry("up", message)

    def down(self, message: Tensor) -> Tensor:
        """From the server to a client."""
        return self.carry("down", message)

    def count(self, direction: str, tensors: Mapping[str, Tensor]) -> None:
        """Counts layers that are handed over whole; in one process they need not move."""
        self.bytes[direction] += sum(t.numel() * t.element_size() for t in tensors.values())

    def state_dict(self) -> dict[str, int]:
        """The counters."""
        return dict(self.bytes)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The inverse of `state_dict`."""
        self.bytes = {k: int(v) for k, v in state.items()}


def pooled(parts: list[Tensor]) -> Tensor:
    """The parts as one batch; a single part as it is, so that no copy is made."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
