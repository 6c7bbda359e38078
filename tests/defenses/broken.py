# SPDX-License-Identifier: Apache-2.0
"""Defenses that are broken in one way each, with the promise of the contract that must catch it and what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitguard.api import Alarm, Batch, Context, Defense, Exchange
from splitguard.defenses.gaussian import Gaussian

__all__ = ["BREAKERS", "Honest"]


@dataclass(kw_only=True)
class NeedsSetting(Gaussian):
    """Sends less.

    Args:
        share: of it, in 0..1.
    """

    share: float


@dataclass
class Undescribed(Defense):
    """Does nothing.

    Args:
        told: is described; untold: is not.
    """

    told: int = 1
    untold: int = 1
    acts: ClassVar[str] = "labels"


class NoDocstring(Gaussian):  # that is what is wrong with it
    pass


class NoDataclass(Defense):
    """Has no settings and does not say so."""


class Inherited(Gaussian):
    """Has a setting that its parent's @dataclass does not know.

    Args:
        further: a number.
    """

    further: float = 1.0


@dataclass
class NoPlace(Defense):
    """Says nowhere where it acts."""


class NoVersion(Gaussian):
    __doc__ = Gaussian.__doc__
    version: ClassVar[int] = "2"  # type: ignore[assignment]  # that is what is wrong with it


@dataclass
class Forgetful(Defense):
    """Has a setting that no file can hold.

    Args:
        net: a network.
    """

    net: Any = dataclasses.field(default_factory=lambda: nn.Linear(1, 1))
    acts: ClassVar[str] = "labels"


@dataclass(kw_only=True)
class Honest(Gaussian):
    """What the broken ones are derived from, so that each is broken in one way."""

    __doc__ = Gaussian.__doc__


class NotNull(Honest):
    null: ClassVar[Mapping[str, Any] | None] = {"sigma": 0.0, "clip": 0.5}


class Flattens(Honest):
    def mean_release(self, smashed: Tensor) -> Tensor:
        return super().mean_release(smashed).flatten(1)


class Narrows(Honest):
    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return super().on_send(smashed, ctx, generator).float()


class WritesIn(Honest):
    def on_return(self, grad: Tensor, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return grad.mul_(0.5)


class Overflows(Honest):
    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return super().released_like(smashed, generator) / 0


class DrawsGlobally(Honest):
    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return super().released_like(smashed, generator) + 1e-9 * torch.randn(())


class DrawsFromTheSystem(Honest):
    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        own = torch.Generator()
        own.seed()
        return super().released_like(smashed, own)


class CutsTheGraph(Honest):
    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return super().released_like(smashed, generator).detach()


class SteepGradient(Honest):
    def mean_release(self, smashed: Tensor) -> Tensor:
        return super().mean_release(smashed) + 0 * (smashed - smashed).sqrt()


class TellsTheWrongMean(Honest):
    def mean_release(self, smashed: Tensor) -> Tensor:
        return 0.5 * super().mean_release(smashed)


class TellsTheWrongNoise(Honest):
    def noise_std(self) -> float:
        return 2 * super().noise_std()


class ForgetsReleasedLike(Honest):
    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return 0.5 * super().on_send(smashed, ctx, generator)


class ClipsTheBatch(Honest):
    def mean_release(self, smashed: Tensor) -> Tensor:
        return smashed / smashed.square().sum().sqrt().clamp(min=1)


class SpreadsNaN(Honest):
    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return smashed if bool(torch.isfinite(smashed).all()) else 0 * smashed


class NoState(Honest):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return


class StateOfObjects(Honest):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "self": self}


class VectorPenalty(Honest):
    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor | None:
        return smashed.flatten(1).square().sum(1)


class RootPenalty(Honest):
    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor | None:
        return torch.sqrt((smashed - smashed[:1]).square().sum())  # equal rows: the root of 0


class NeedsLabels(Honest):
    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor | None:
        return (smashed.mean() * batch.labels).sum()  # type: ignore[operator]  # labels may be None


class ShoutsAlarm(Honest):
    def alarm(self, exchange: Exchange) -> Alarm | None:
        return Alarm(7.0)


class Misplaces(Honest):
    def place(self, cuts: tuple[str, ...], legal: Any) -> tuple[str, ...]:
        return cuts if cuts[0] == "conv1" else ("nowhere",)


BREAKERS: list[tuple[type, str, str]] = [
    (NeedsSetting, "builds with its defaults", "share"),
    (NoDataclass, "builds with its defaults", "needs @dataclass"),
    (Inherited, "builds with its defaults", "needs @dataclass"),
    (Undescribed, "is described", "leaves out untold"),
    (NoDocstring, "is described", "needs a docstring"),
    (NoPlace, "is described", "acts must say where"),
    (NoVersion, "is described", "whole number from 1; got '2'"),
    (Forgetful, "settings survive YAML", "not JSON serializable"),
    (NotNull, "does nothing at its null settings", "on_send changes what it is given"),
    (Flattens, "keeps shapes and leaves its input alone", r"mean_release makes torch.float32 (8, 144) of"),
    (Narrows, "keeps shapes and leaves its input alone", "on_send makes torch.float32"),
    (WritesIn, "keeps shapes and leaves its input alone", "writes into what it is given"),
    (Overflows, "keeps shapes and leaves its input alone", "not finite"),
    (DrawsGlobally, "draws from the generator alone", "global generator was used"),
    (DrawsFromTheSystem, "draws from the generator alone", "two results"),
    (CutsTheGraph, "can be differentiated", "cuts the graph"),
    (SteepGradient, "can be differentiated", "the gradient through mean_release is not finite"),
    (TellsTheWrongMean, "is what attackers are told", "off mean_release"),
    (TellsTheWrongNoise, "is what attackers are told", "noise_std"),
    (ForgetsReleasedLike, "is what attackers are told", "off mean_release"),
    (ClipsTheBatch, "keeps rows apart if it says so", "changes with other rows"),
    (SpreadsNaN, "keeps rows apart if it says so", "changes with other rows, times nan"),
    (NoState, "resumes to the same bits", "call bind"),
    (StateOfObjects, "resumes to the same bits", "UnpicklingError"),
    (VectorPenalty, "adds finite numbers", "a differentiable scalar"),
    (RootPenalty, "adds finite numbers", "not finite"),
    (NeedsLabels, "adds finite numbers", "TypeError"),
    (ShoutsAlarm, "adds finite numbers", "score lies in 0..1"),
    (Misplaces, "goes from legal cut to legal cut", "no legal cut"),
]
