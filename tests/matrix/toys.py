# SPDX-License-Identifier: Apache-2.0
"""Attacks in every seat that cost next to nothing, and the smallest matrix that uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from splitguard.api import (
    Attack,
    Exchange,
    Goal,
    Guess,
    NotSupported,
    OnlineAttack,
    Party,
    Sees,
    ServerAttack,
    Threat,
    View,
)
from splitguard.matrix import TIMINGS, Matrix, Results

#: Trains in a fraction of a second.
QUICK: dict[str, Any] = {
    "data": {"name": "faces", "clients": 2, "train": 40, "victims": {"member": 6, "query": 6}},
    "model": "lenet",
    "cut": "conv1",
    "train": {"epochs": 1, "batch_size": 16, "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9}},
}


def noise(view: View, generator: torch.Generator) -> Guess:
    return Guess(view.ids, images=torch.rand(len(view.ids), *view.input_shape, generator=generator))


@dataclass
class Noise(Attack):
    """Guesses noise, from the generator it is given."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED)
    scale: float = 1.0

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return noise(view, generator)


@dataclass
class NeedsHead(Noise):
    """Needs the strongest passive profile."""

    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.HEAD)


@dataclass
class Labels(Attack):
    """Guesses labels at random."""

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(Sees.LABEL_GRAD | Sees.SMASHED, (Party.SERVER, Party.CLIENT))

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, scores=torch.rand(len(view.ids), view.classes, generator=generator))


@dataclass
class Breaks(Noise):
    """Raises what it is told to."""

    how: str = "RuntimeError"

    def run(self, view: View, generator: torch.Generator) -> Guess:
        if self.how == "NotSupported":
            raise NotSupported("not on a Tuesday")
        if self.how == "wrong ids":
            return Guess(view.ids.flip(0), images=torch.zeros(len(view.ids), *view.input_shape))
        raise RuntimeError("it broke\nin the middle")


@dataclass
class Watches(OnlineAttack):
    """Counts what it is shown; breaks at the step it is told to."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.BODY)
    breaks_at: int | None = None
    seen: int = field(default=0, init=False)

    def start(self, view: View, generator: torch.Generator) -> None:
        self.seen = 0

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        self.seen += 1
        if self.seen == self.breaks_at:
            raise RuntimeError("watched too closely")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        guess = noise(view, generator)
        return Guess(view.ids, images=guess.images, settings={"seen": self.seen})

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]


@dataclass
class Shrinks(ServerAttack):
    """Returns a tenth of every gradient."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED, active=True)

    def start(self, view: View, generator: torch.Generator) -> None:
        pass

    def backward(self, exchange: Exchange, honest: Tensor) -> Tensor:
        return honest / 10

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return noise(view, generator)


@dataclass
class Thief(Attack):
    """Hands over the client's own layers, which a colluding client gave it."""

    goal: ClassVar[Goal] = Goal.FUNCTIONALITY
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.HEAD, uses=Sees.TAIL)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, head=view.head(), tail=view.tail() if view.sees(Sees.TAIL) else None)


TOYS: dict[str, type[Attack]] = {
    "toy-noise": Noise,
    "toy-needs-head": NeedsHead,
    "toy-labels": Labels,
    "toy-breaks": Breaks,
    "toy-watches": Watches,
    "toy-shrinks": Shrinks,
    "toy-thief": Thief,
}


#: The smallest matrix.
NOISE: dict[str, Any] = {**QUICK, "attack": "toy-noise"}


def run(out: Path, **more: Any) -> Results:
    """Runs the smallest matrix with other axes."""
    return Matrix({**NOISE, **more}).run(out, progress=False)


def numbers(results: Results) -> pd.DataFrame:
    """All columns but those that differ from run to run."""
    return results.frame.drop(columns=list(TIMINGS))


def one(results: Results, **columns: Any) -> pd.Series[Any]:
    """The only row with these values."""
    frame = results.frame
    for name, value in columns.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]
