# SPDX-License-Identifier: Apache-2.0
"""An architecture without its weights says nothing of them, whatever stands between a layer and its parameters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from splitguard.engine.fresh import fresh_copy


class Tokens(nn.Module):
    """A parameter outside of any layer, and a table that is part of the architecture."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(4))
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = rows + self.token + self.table
        return out


class Container(nn.Module):
    """Resets one of its two children."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), Tokens()

    def reset_parameters(self) -> None:
        self.one.reset_parameters()

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.two(self.one(rows))
        return out


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(4, 4),
    "norm": lambda: nn.BatchNorm1d(4),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "tokens": Tokens,
    "container": Container,
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
}


def state(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_that_was_learnt_is_left(name: str) -> None:
    torch.manual_seed(0)
    module = LAYERS[name]().train()
    rows = torch.randn(8, 1, 4) if name == "attention" else torch.randn(8, 4)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(3):
        loss = (module(rows) - torch.randn(4)).square().sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    fresh = fresh_copy(module, torch.Generator().manual_seed(1))
    for key, value in state(module).items():
        same = torch.equal(fresh.state_dict()[key], value)
        assert same == key.endswith("table"), key
    assert fresh.training
    again = fresh_copy(module, torch.Generator().manual_seed(1))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in fresh.state_dict().items())
    assert bool(torch.isfinite(fresh(rows)).all())
