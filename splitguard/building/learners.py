# SPDX-License-Identifier: Apache-2.0
"""Networks that an attack trains while it watches a session, so that they survive a kill."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from splitguard.seeding import drawing

__all__ = ["Learners", "rows_of", "seeded"]


class Learners:
    """Named networks, each with an Adam of its own.

    Args:
        nets: by name, each with its step size.

    Attributes:
        steps: optimizer steps taken, all networks together.
    """

    def __init__(self, nets: Mapping[str, tuple[nn.Module, float]]) -> None:
        self._nets = nn.ModuleDict({name: net for name, (net, _) in nets.items()})
        self._optimizers = {name: torch.optim.Adam(net.parameters(), lr=rate) for name, (net, rate) in nets.items()}
        self.steps = 0

    def __getitem__(self, name: str) -> nn.Module:
        return self._nets[name]

    def __contains__(self, name: str) -> bool:
        return name in self._nets

    def learn(self, *losses: tuple[Tensor, str]) -> None:
        """One step of each named network on its own loss, all gradients taken before the first step.

        A loss moves the network beside it and no other, whatever else it went through; to train two on one loss, name
        it twice.
        """
        owned = [[p for p in self._nets[name].parameters() if p.requires_grad] for _, name in losses]
        grads = [
            torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)
            for (loss, _), own in zip(losses, owned, strict=True)
        ]
        for (_, name), own, found in zip(losses, owned, grads, strict=True):
            for parameter, grad in zip(own, found, strict=True):
                parameter.grad = grad
            self._optimizers[name].step()
            self._optimizers[name].zero_grad(set_to_none=True)
            self.steps += 1

    def to(self, like: Tensor) -> None:
        """Moves everything to the device and the precision of ``like``."""
        if any((p.device, p.dtype) != (like.device, like.dtype) for p in self._nets.parameters()):
            self._nets.to(like)
            for optimizer in self._optimizers.values():
                optimizer.load_state_dict(optimizer.state_dict())  # which casts its own state to the parameters'

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers and the count."""
        return {
            "nets": self._nets.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`, in the precision that was saved."""
        for name, net in self._nets.items():
            saved = [v for k, v in state["nets"].items() if k.startswith(f"{name}.") and v.is_floating_point()]
            if saved:
                net.to(saved[0].dtype)
        self._nets.load_state_dict(state["nets"])
        for name, optimizer in self._optimizers.items():
            # Torch keeps the tensors that it is given, so two networks would go on with one optimizer's moments.
            optimizer.load_state_dict(copy.deepcopy(state["optimizers"][name]))
        self.steps = int(state["steps"])


def seeded(generator: torch.Generator, like: Tensor) -> contextlib.AbstractContextManager[None]:
    """A block in which layers that take no generator, such as dropout, draw from ``generator``."""
    return drawing(int(torch.randint(2**62, (1,), generator=generator)), like.device)


def rows_of(total: int, count: int, generator: torch.Generator) -> Tensor:
    """(count,) positions among ``total`` rows: all different where there are enough, else drawn with replacement."""
    if count <= total:
        return torch.randperm(total, generator=generator)[:count]
    return torch.randint(total, (count,), generator=generator)
