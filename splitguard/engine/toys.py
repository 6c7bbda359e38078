# SPDX-License-Identifier: Apache-2.0
"""The toy task of each goal, and a toy defense: seconds to train, and such that there is something to find."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from splitguard.data import Data, Pool, draw, load
from splitguard.engine.defense import Context, Defense, Deployment
from splitguard.engine.threat import Goal
from splitguard.engine.training import Training
from splitguard.seeding import generator

__all__ = ["HalfTrue", "Toy", "federated", "toy"]

QUICK = Training(epochs=3, batch_size=16)
#: Of the digits: 0..4 against 5..9.
HALVES = (0,) * 5 + (1,) * 5


@dataclass(frozen=True, eq=False)
class Toy:
    """A task and how it is trained, with a LeNet that is cut at conv1."""

    data: Data
    training: Training


class HalfTrue(Defense):
    """States the truth for every second row, and class 0 for the others: labels cross the wire, and are not the labels.

    By row id, so that nothing is drawn and a row is always answered alike.
    """

    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "labels"

    def bind(self, deployment: Deployment) -> None:
        """Learns the number of classes."""
        self._classes = deployment.classes

    def on_labels(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N,)."""
        return torch.where(ctx.ids.to(labels.device) % 2 == 0, labels, 0)

    def label_law(self) -> Tensor:
        """(K, K): half the identity, half class 0."""
        law = torch.eye(self._classes, dtype=torch.float64) / 2
        law[:, 0] += 0.5
        return law


@functools.cache
def toy(goal: Goal) -> Toy:
    """The task on which an attack after ``goal`` is tried.

    Faces and other pictures, unless the goal needs more. Attribute: handwritten digits, of which the network is to tell
    0..4 from 5..9. Membership: digits with labels drawn by lot, which can only be learned by heart. Functionality:
    digits, of which the attacker has two a class.
    """
    match goal:
        case Goal.ATTRIBUTE:
            return Toy(draw(_digits(), train=200, test=100, aux=200, victims=_both(40), coarse=HALVES), QUICK)
        case Goal.MEMBERSHIP:
            by_heart = Training(epochs=30, batch_size=16, optimizer={"name": "adam", "lr": 3e-3})
            return Toy(draw(_by_lot(), train=60, test=60, aux=120, victims=_both(40)), by_heart)
        case Goal.FUNCTIONALITY:
            well = Training(epochs=10, batch_size=32, optimizer={"name": "adam", "lr": 2e-3})
            return Toy(draw(_digits(), train=400, test=400, aux=20, victims=_both(16)), well)
        case _:
            return _faces()


@functools.cache
def federated() -> Toy:
    """Faces at two clients whose layers are averaged after each step on one row, which tells a fed server most."""
    return Toy(load("faces", seed=0, clients=2), Training(epochs=1, batch_size=1, average_every=1))


@functools.cache
def _faces() -> Toy:
    return Toy(load("faces", seed=0), QUICK)


def _both(count: int) -> dict[str, int]:
    return {"member": count, "query": count}


@functools.cache
def _digits() -> Pool:
    """1,797 handwritten digits, 1x8x8 grey, inside scikit-learn (Alpaydin, Kaynak, 1998)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return Pool("digits", torch.from_numpy(found.images / 16).float()[:, None], torch.from_numpy(found.target))


def _by_lot() -> Pool:
    """The same images with labels that have nothing to do with them, of four kinds."""
    inputs = _digits().inputs
    return Pool("lots", inputs, torch.randint(4, (len(inputs),), generator=generator(0, "lots")))
