# SPDX-License-Identifier: Apache-2.0
"""Defenses that guarantee, or hide, more than they do, with the promise of the contract that must catch each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from splitguard.api import Batch, Deployment, Guarantee
from tests.defenses.broken import Honest

__all__ = ["OVERSTATED"]


class NoClip(Honest):
    def mean_release(self, smashed: Tensor) -> Tensor:
        return smashed

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(smashed.shape, generator=generator, dtype=smashed.dtype)
        return smashed + self.noise_std() * noise


class ClipsTheLastAxis(NoClip):
    def mean_release(self, smashed: Tensor) -> Tensor:
        clip = self._bound[0]
        return smashed * (clip / smashed.square().sum(-1, keepdim=True).sqrt().clamp(min=clip))

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return super().released_like(self.mean_release(smashed), generator)


class HalfTheSensitivity(Honest):
    def privacy(self) -> tuple[Guarantee, ...]:
        return tuple(dataclasses.replace(g, sensitivity=(g.sensitivity or 0) / 2) for g in super().privacy())


class HandsOutItsNetwork(Honest):
    def modules(self) -> Mapping[str, nn.Module]:
        return {"layer": nn.Linear(2, 2)}


class TellsWhatItMet(Honest):
    """Its draws are as loud as the rows that it met."""

    met = 0.0

    def adversary_step(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> None:
        self.met = float(smashed.abs().mean())

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return super().released_like(smashed, generator) + self.met


class ForgetsT(Honest):
    def bind(self, deployment: Deployment) -> None:
        super().bind(deployment)
        self._ledger = None


class ClaimsTheView(Honest):
    def privacy(self) -> tuple[Guarantee, ...]:
        return tuple(dataclasses.replace(g, epsilon=g.epsilon_rows) for g in super().privacy())


class ClaimsTheMixedView(Honest):
    def bind(self, deployment: Deployment) -> None:
        super().bind(dataclasses.replace(deployment, mixing=()))


class GuaranteesAndMixes(Honest):
    per_sample: ClassVar[bool] = False


OVERSTATED: list[tuple[type, str, str]] = [
    (HandsOutItsNetwork, "keeps what it learnt from attackers outside", "outside() still has layer"),
    (TellsWhatItMet, "keeps what it learnt from attackers outside", "released_like tells what training rows taught it"),
    (NoClip, "proves what it guarantees", "a row moved by"),
    (ClipsTheLastAxis, "proves what it guarantees", "a row moved by"),
    (HalfTheSensitivity, "proves what it guarantees", "a row moved by"),
    (ForgetsT, "proves what it guarantees", "got 6 releases and T=3"),
    (ClaimsTheView, "proves what it guarantees", "no epsilon covers the whole view"),
    (ClaimsTheMixedView, "proves what it guarantees", "a layer mixes rows"),
    (GuaranteesAndMixes, "proves what it guarantees", "needs per_sample"),
]
