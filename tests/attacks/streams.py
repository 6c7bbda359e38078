# SPDX-License-Identifier: Apache-2.0
"""Sessions made by hand, exchange by exchange, for attacks that watch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from splitguard.api import Batch, Defense, Exchange, OnlineAttack, Phase, Rows, View
from tests.attacks.views import gen, sent_view

A = TypeVar("A", bound=OnlineAttack)


class Recorder(Defense):
    """Notes the batches that a simulated client is trained on, and how often a release is drawn."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.drawn = 0

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor | None:
        self.batches.append(batch)
        return None

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        self.drawn += 1
        return smashed


def stream_view(
    victims: Tensor,
    head: nn.Module,
    aux: Rows,
    *,
    body: nn.Module | None = None,
    classes: int = 2,
    features: tuple[int, ...] = (),
    defense: Defense | None = None,
    adaptive: bool = True,
) -> View:
    """A view in which ``head`` sent each victim once; ``features`` is the shape at a second cut, if there is one."""
    view = sent_view(victims, [head], [[0]] * len(victims), defense=defense, adaptive=adaptive)
    server = body or nn.Identity()
    return replace(
        view,
        classes=classes,
        cut_shapes=(*view.cut_shapes, features) if features else view.cut_shapes,
        models=replace(view.models, body=lambda: server),
        _aux=aux,
    )


def exchanges(
    inputs: Tensor,
    head: nn.Module,
    *,
    size: int,
    labels: Tensor | None = None,
    rounds: int = 1,
) -> list[Exchange]:
    """The rows (N, *in) in order, ``size`` at a time, ``rounds`` times over; row n has the id 100 + n."""
    out: list[Exchange] = []
    for epoch in range(rounds):
        for rows in torch.arange(len(inputs)).split(size):
            with torch.no_grad():
                smashed = head(inputs[rows])
            out.append(
                Exchange(
                    epoch,
                    len(out),
                    Phase.TRAINING,
                    0,
                    100 + rows,
                    smashed=smashed,
                    labels=None if labels is None else labels[rows],
                )
            )
    return out


def watch(attack: A, view: View, stream: Iterable[Exchange], *, seed: int = 0) -> A:
    """The attack after it has watched the stream; what it is shown is its own copy, as in a session."""
    draws = gen(seed)
    attack.start(view, draws)
    for exchange in stream:
        attack.observe(replace(exchange, smashed=exchange.smashed.clone()), view, draws)
    return attack
