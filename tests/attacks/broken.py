# SPDX-License-Identifier: Apache-2.0
"""Attacks that break one promise of the contract each, and one that keeps all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from splitguard.api import Attack, Goal, Guess, Sees, Threat, View


@dataclass(kw_only=True)
class Honest(Attack):
    """Names the candidate whose release is nearest.

    Args:
        scale: of nothing.
        shape: a tuple, which YAML writes as a list.
    """

    scale: float = 1.0
    shape: tuple[int, ...] = (1, 2)
    goal: ClassVar[Goal] = Goal.CANDIDATES
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.QUERY | Sees.CANDIDATES)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        made = view.query(view.candidates, generator).flatten(1)
        return Guess(view.ids, choices=torch.cdist(view.releases.last(view.ids).smashed.flatten(1), made).argmin(1))


@dataclass(kw_only=True)
class Mean(Attack):
    """Answers with the mean auxiliary image, as who never saw the wire."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.AUX)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        view.need(self.threat.needs)
        return Guess(view.ids, images=self.images(view.aux.inputs.mean(0).expand(len(view.ids), *view.input_shape)))

    def images(self, mean: Tensor) -> Tensor:
        """What it hands over."""
        return mean.clone()


@dataclass(kw_only=True)
class Majority(Attack):
    """Answers with one label for all."""

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(Sees.LABEL_GRAD)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        view.need(self.threat.needs)
        return Guess(view.ids, labels=torch.zeros(len(view.ids), dtype=torch.int64))


@dataclass(kw_only=True)
class NeedsSetting(Honest):
    """Has a setting without a default."""

    wanted: int


class Inherited(Honest):
    """Has a setting that its parent's @dataclass does not know.

    Args:
        scale: of nothing.
        shape: a tuple.
        further: a number.
    """

    further: float = 1.0


class NoAttack:
    """Of another family."""


class NoDataclass(Attack):
    """Has no settings, and says so in the wrong way."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids)


@dataclass(kw_only=True)
class Undescribed(Honest):
    """Says nothing about a setting.

    Args:
        scale: of nothing.
    """


@dataclass(kw_only=True)
class Unversioned(Mean):
    """Has no version."""

    version: ClassVar[Any] = "1"


@dataclass(kw_only=True)
class NotPlain(Mean):
    """Has a setting that is no plain data."""

    weights: Any = complex(1, 2)


@dataclass(kw_only=True)
class OtherOrder(Mean):
    """Answers for the victims in another order."""

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids.flip(0), images=super().run(view, generator).images)


@dataclass(kw_only=True)
class OutOfRange(Mean):
    """Hands over images on another scale."""

    def images(self, mean: Tensor) -> Tensor:
        return 255 * mean


@dataclass(kw_only=True)
class NotANumber(Mean):
    """Hands over NaN."""

    def images(self, mean: Tensor) -> Tensor:
        return mean * torch.nan


@dataclass(kw_only=True)
class OtherShape(Mean):
    """Hands over one image too few."""

    def images(self, mean: Tensor) -> Tensor:
        return mean[1:]


@dataclass(kw_only=True)
class Nothing(Mean):
    """Hands over labels where images are asked for."""

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, labels=torch.zeros(len(view.ids), dtype=torch.int64))


@dataclass(kw_only=True)
class Unseeded(Mean):
    """Draws from a generator of its own."""

    def images(self, mean: Tensor) -> Tensor:
        own = torch.Generator()
        own.seed()
        return torch.rand(mean.shape, generator=own)


@dataclass(kw_only=True)
class Drawing(Mean):
    """Draws from torch's global generator."""

    def images(self, mean: Tensor) -> Tensor:
        return torch.rand(mean.shape)


@dataclass(kw_only=True)
class Seeding(Mean):
    """Seeds NumPy's global generator."""

    def images(self, mean: Tensor) -> Tensor:
        np.random.seed(0)  # noqa: NPY002  # what the contract forbids
        return mean.clone()


@dataclass(kw_only=True)
class InPlace(Mean):
    """Writes to the auxiliary images."""

    def run(self, view: View, generator: torch.Generator) -> Guess:
        view.aux.inputs.mul_(0.999)
        return super().run(view, generator)


@dataclass(kw_only=True)
class InTheHead(Mean):
    """Writes to the snapshots behind the view."""

    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.HEAD | Sees.AUX)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        for state in view.head_states(view.releases.head[:1]).values():
            state.add_(1)  # a copy, which is allowed
        for value in view.models.state(int(view.releases.head[0])).values():
            value.add_(1e-3)
        return super().run(view, generator)


@dataclass(kw_only=True)
class Modest(Mean):
    """Declares more than it reads."""

    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.BODY | Sees.AUX)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        view.need(Sees.SMASHED | Sees.AUX)
        return Guess(view.ids, images=self.images(view.aux.inputs.mean(0).expand(len(view.ids), *view.input_shape)))


BREAKERS: list[tuple[Any, str, str]] = [
    (NeedsSetting, "builds with its defaults", "needs the setting 'wanted'"),
    (NoAttack, "builds with its defaults", "is no class derived from Attack"),
    (NoDataclass, "builds with its defaults", "needs @dataclass above it"),
    (Inherited, "builds with its defaults", "needs @dataclass above it"),
    (Undescribed, "is described", "Args in the docstring leaves out shape"),
    (Unversioned, "is described", "version must be a whole number from 1; got '1'"),
    (NotPlain, "settings survive YAML", "not JSON serializable"),
    (OtherOrder, "answers for every victim, in range", "ids must be view.ids"),
    (OutOfRange, "answers for every victim, in range", "must be finite and in [0, 1]"),
    (NotANumber, "answers for every victim, in range", "must be finite and in [0, 1]; got nan"),
    (OtherShape, "answers for every victim, in range", "images must have shape (16, 1, 25, 25); got (15, 1, 25, 25)"),
    (Nothing, "answers for every victim, in range", "images were not handed over"),
    (Unseeded, "same generator, same answer", "images differ between two runs"),
    (Drawing, "leaves global randomness alone", "used the global generator of torch"),
    (Seeding, "leaves global randomness alone", "used the global generator of numpy"),
    (InPlace, "leaves the view alone", "wrote to aux"),
    (InTheHead, "leaves the view alone", "wrote to head snapshots"),
    (Modest, "refuses a view without what it needs", "needs body, yet it runs without"),
    (Mean, "better than a blind guess", "no better than a blind guess: ssim"),
    (Majority, "better than a blind guess", "no better than a blind guess: leakage"),
]
