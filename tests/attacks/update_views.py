# SPDX-License-Identifier: Apache-2.0
"""A fed server's view built by hand: a tail trained by torch's own optimizers on features and labels that are known."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from splitguard.api import Labels, Mode, Party, Update, Updates, View
from splitguard.engine.training import Training
from tests.attacks.views import gen, label_view

#: One local step: the features (B, *cut2) and labels (B,) it is taken on.
Step = tuple[Tensor, Tensor]


def update_view(
    tail: nn.Module,
    averagings: Sequence[Sequence[Step]],
    classes: int,
    *,
    optimizer: dict[str, Any] | None = None,
    epoch: int = 0,
    skip: int = 0,
) -> View:
    """What the fed server sees of one client that takes these local steps between averagings; rows are 0, 1, ...

    Each averaging moves the tail away from what the client sent, as another client's layers would.

    Args:
        optimizer: as in `Training`; plain SGD by default.
        epoch: of the record.
        skip: so many averagings at the beginning are not on record.
    """
    training = Training(optimizer=optimizer or {"name": "sgd", "lr": 0.1})
    live = copy.deepcopy(tail).train().requires_grad_(True)
    made = training.make_optimizer("tail", list(live.parameters()))
    sent, first = [], 0
    for number, steps in enumerate(averagings):
        before = _state(live)
        for features, labels in steps:
            made.zero_grad()
            cross_entropy(live(features), labels).backward()
            made.step()
        sizes = torch.tensor([len(labels) for _, labels in steps])
        ids = torch.arange(first, first + int(sizes.sum()))
        first += len(ids)
        sent.append(Update(0, epoch, number, made.param_groups[0]["lr"], ids, sizes, before, _state(live)))
        with torch.no_grad():
            for parameter in live.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=gen(number)), alpha=0.01)
    settings = {k: v for k, v in made.param_groups[0].items() if k not in ("params", "lr")}
    updates = Updates(tuple(sent[skip:]), {"name": type(made).__name__.lower(), **settings})
    base = label_view(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), [], classes)
    return replace(
        base,
        party=Party.FED_SERVER,
        mode=Mode.SPLITFED,
        labels=Labels.CLIENT,
        ids=torch.cat([u.ids for u in updates.sent]),
        cut_shapes=(base.cut_shapes[0], tuple(averagings[0][0][0].shape[1:])),
        models=replace(base.models, tail=lambda at: copy.deepcopy(live).eval().requires_grad_(False)),
        _updates=updates,
        _context=None,
    )


def labels_of(averagings: Sequence[Sequence[Step]], skip: int = 0) -> Tensor:
    """(N,) the truth for `update_view`."""
    return torch.cat([labels for steps in averagings[skip:] for _, labels in steps])


def steps_of(count: int, rows: int, width: int, classes: int, *, seed: int = 0, positive: bool = True) -> list[Step]:
    """Steps on random features, behind a ReLU or not, with labels that occur unevenly."""
    draws = gen(seed)
    out = []
    for _ in range(count):
        features = torch.randn(rows, width, generator=draws)
        labels = (torch.rand(rows, generator=draws) ** 2 * classes).long()
        out.append((features.relu() if positive else features, labels))
    return out


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {f"tail.{k}": v.detach().clone() for k, v in module.state_dict().items()}
