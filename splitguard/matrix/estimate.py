# SPDX-License-Identifier: Apache-2.0
"""Roughly how long a plan takes: one training step is timed for each network, and multiplied out."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from splitguard.matrix.cell import Cell, canonical
from splitguard.matrix.process import numeric_threads
from splitguard.seeding import drawing

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Estimate", "Stopwatch", "duration"]

#: Scoring one guess (LPIPS, re-identification, intervals) and opening its session, in seconds.
SCORING = 1.0
#: How many training steps one of an attack is as dear as: it has networks of its own, and some of it is tuning.
DEAR = 5


@dataclass(frozen=True)
class Estimate:
    """Seconds of work, and of waiting with so many jobs; within a factor of about three."""

    training: float
    attacks: float
    jobs: int

    @property
    def seconds(self) -> float:
        """Until it is done."""
        return (self.training + self.attacks) / self.jobs

    def as_dict(self) -> dict[str, float]:
        """As plain data."""
        return {"training": self.training, "attacks": self.attacks, "total": self.seconds}

    def __str__(self) -> str:
        jobs = f"{self.jobs} job{'s' * (self.jobs != 1)}"
        parts = f"trainings {duration(self.training)}, attacks {duration(self.attacks)} of work"
        return f"roughly {duration(self.seconds)} with {jobs} ({parts})"


def duration(seconds: float) -> str:
    """Seconds for people: ``"45 s"``, ``"12 min"``, ``"3.5 h"``."""
    if seconds < 90:
        return f"{max(math.ceil(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Stopwatch:
    """Times one training step of each network and batch size.

    Args:
        network: the whole network of a cell, and the shape of one input.
    """

    def __init__(self, network: Callable[[Cell], tuple[nn.Module, tuple[int, ...]]]) -> None:
        self._network = network
        self._steps: dict[str, float] = {}

    def estimate(
        self,
        trainings: Iterable[Cell],
        attacks: Iterable[Cell],
        riders: Iterable[Cell],
        measured: Mapping[str, float],
        jobs: int,
    ) -> Estimate:
        """The work of these trainings and attacks.

        Args:
            trainings: one cell each.
            attacks: one cell for each attack and phase.
            riders: likewise, attacks that take part in a training or watch it.
            measured: seconds that attacks took before, by their name.
            jobs: how many run side by side.
        """
        work = [(cell, self._attack) for cell in attacks] + [(cell, self._rider) for cell in riders]
        return Estimate(
            sum(map(self.training, trainings)),
            sum(measured[c.attack.name] if c.attack.name in measured else seconds(c) for c, seconds in work),
            jobs,
        )

    def training(self, cell: Cell) -> float:
        """Seconds of one training."""
        settings = cell.training
        steps = _steps(cell)
        if settings["head"] == "frozen":
            before = settings["epochs"] if settings["pretrain_epochs"] is None else settings["pretrain_epochs"]
            steps += before * cell.data["aux"] / settings["batch_size"]
        return float(steps) * self._step(cell)

    def _attack(self, cell: Cell) -> float:
        """An attack's steps on all its victims at once, each as dear as `DEAR` training steps on as many rows.

        One without a setting ``steps`` is taken to read its answer off.
        """
        victims = max(cell.data["victims"].values(), default=0)
        rows = victims / cell.training["batch_size"]
        return SCORING + float(_setting(cell, "steps") * rows) * DEAR * self._step(cell)

    def _rider(self, cell: Cell) -> float:
        """One that learns with each training step, and then goes on by itself; each step as dear as `DEAR` of these.

        Where there is a ``finish``, ``steps`` are those with each training step, else those after the last.
        """
        names = ("finish", "decode") if "finish" in cell.attack.settings else ("steps",)
        beside = _setting(cell, "steps", 1) if "finish" in names else 1
        after = sum(_setting(cell, name) for name in names)
        return SCORING + (_steps(cell) * beside + after) * DEAR * self._step(cell)

    def _step(self, cell: Cell) -> float:
        size = cell.training["batch_size"]
        name = canonical([cell.model, cell.data["name"], cell.data["digest"], size])
        if name not in self._steps:
            network, shape = self._network(cell)
            self._steps[name] = _seconds_a_step(network, shape, size, cell.training["threads"])
        return self._steps[name]


def _steps(cell: Cell) -> float:
    """Of training, on private rows."""
    return float(cell.training["epochs"] * cell.data["train"] / cell.training["batch_size"])


def _setting(cell: Cell, name: str, otherwise: int = 0) -> int:
    """A whole number among the attack's settings."""
    found = cell.attack.settings.get(name)
    return found if isinstance(found, int) else otherwise


def _seconds_a_step(network: nn.Module, shape: tuple[int, ...], size: int, threads: int) -> float:
    """The fastest of a few forward and backward passes over a batch of zeros."""
    network = copy.deepcopy(network).train()
    inputs = torch.zeros(size, *shape)
    parameters = [p for p in network.parameters() if p.requires_grad]
    best = math.inf
    with numeric_threads(threads), drawing(0):
        for _ in range(4):
            began = time.perf_counter()
            out = network(inputs)
            torch.autograd.grad(cross_entropy(out, torch.zeros(size, dtype=torch.int64)), parameters)
            best = min(best, time.perf_counter() - began)
    return best
