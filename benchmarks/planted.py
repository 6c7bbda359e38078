# SPDX-License-Identifier: Apache-2.0
"""Mechanisms that keep their word at epsilon 4 over T = 4 releases in batches of 32, and usual mistakes that do not.

`benchmarks.estimate` and the tests of `splitguard estimate` play against the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from splitguard.defenses.dp_sgd_head import DpSgdHead
from splitguard.privacy import sigma
from splitguard.privacy.estimate import Claim
from splitguard.privacy.game import Send

__all__ = [
    "BATCH", "BUGS", "CLAIM", "CLIP", "CORRECT", "DELTA", "EPSILON", "HEAD_BUGS", "HEAD_CORRECT", "RELEASES", "SHAPE",
    "SIGMA", "planted_head",
]  # fmt: skip

CLIP, DELTA, RELEASES, EPSILON, BATCH = 0.8, 1e-5, 4, 4.0, 32
SHAPE = (4, 2, 2)
SIGMA = sigma(epsilon=EPSILON, clip=CLIP, releases=RELEASES, delta=DELTA)
CLAIM = Claim(EPSILON, DELTA, CLIP, RELEASES, gaussian=True)


def clipped(z: Tensor, bound: float = CLIP) -> Tensor:
    """Each row to norm ``bound``."""
    norms = z.flatten(1).norm(dim=1).clamp(min=1e-12)
    out: Tensor = z * (bound / norms).clamp(max=1).view(-1, 1, 1, 1)
    return out


def noise(z: Tensor, gen: torch.Generator) -> Tensor:
    out: Tensor = SIGMA * torch.randn(z.shape, generator=gen)
    return out


def correct(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    return clipped(z) + noise(z, gen)


def whole_tensor(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    return z * min(CLIP / float(z.norm()), 1) + noise(z, gen)


def no_clip(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    return z + noise(z, gen)


def batch_bound(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    """To sqrt(B) C, as if the bound of the batch were that of a row."""
    return clipped(z, CLIP * len(z) ** 0.5) + noise(z, gen)


def last_axis(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    factor: Tensor = (CLIP / z.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
    return z * factor + noise(z, gen)


def largest_norm(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    """Divided by the largest norm of the batch: a row's bound holds, and the other rows tell of it."""
    largest: Tensor = z.flatten(1).norm(dim=1).max()
    return z * (CLIP / float(largest)) + noise(z, gen)


def batch_norm(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    return clipped((z - z.mean(0)) / (z.std(0) + 1e-3)) + noise(z, gen)


def scaled_noise(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    size: Tensor = clipped(z).flatten(1).norm(dim=1).view(-1, 1, 1, 1) / CLIP
    return clipped(z) + size * noise(z, gen)


def reused_over_epochs() -> Send:
    kept: dict[int, Tensor] = {}

    def send(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
        if release == 0:
            kept[0] = noise(z, gen)
        return clipped(z) + kept[0]

    return send


def reused_over_rows(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    return clipped(z) + noise(z[:1], gen)


def half_sensitivity(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    """Calibrated as if two clipped rows were C apart, not 2C."""
    return clipped(z) + noise(z, gen) / 2


def one_release(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    """Calibrated as if each row were sent once."""
    out: Tensor = clipped(z) + noise(z, gen) / RELEASES**0.5
    return out


CORRECT: dict[str, Callable[[], Send]] = {
    "row clip": lambda: correct,
    "whole-tensor clip to C": lambda: whole_tensor,
}
BUGS: dict[str, Callable[[], Send]] = {
    "no clip": lambda: no_clip,
    "bound sqrt(B) C": lambda: batch_bound,
    "norm over the last axis": lambda: last_axis,
    "division by the largest norm": lambda: largest_norm,
    "BatchNorm": lambda: batch_norm,
    "noise scaled by the norm": lambda: scaled_noise,
    "noise reused over epochs": reused_over_epochs,
    "noise reused over rows": lambda: reused_over_rows,
    "C claimed for 2C": lambda: half_sensitivity,
    "T forgotten": lambda: one_release,
}


Plant = Callable[[Any], None]
"""Changes an optimizer of `splitguard.defenses.dp_sgd_head`, which clips, adds noise and steps."""


def planted_head(plant: Plant, *, epsilon: float = EPSILON, clip: float = 1.0) -> DpSgdHead:
    """`dp-sgd-head` that claims what it always claims, behind an optimizer that is tampered with."""

    class Planted(DpSgdHead):
        def optimizer(
            self, head: nn.Module, make: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]
        ) -> torch.optim.Optimizer | None:
            made = super().optimizer(head, make)
            plant(made)
            return made

    return Planted(epsilon=epsilon, delta=DELTA, clip=clip)


def untouched(optimizer: Any) -> None:
    """As it is."""


def head_no_clip(optimizer: Any) -> None:
    """The noise keeps its size."""
    optimizer.noise_multiplier, optimizer.max_grad_norm = optimizer.noise_multiplier / 1e9, 1e9


def half_the_noise(optimizer: Any) -> None:
    """What is calibrated for Delta = C and claimed for replacing a row, Delta = 2C."""
    optimizer.noise_multiplier /= 2


def _clips_sums(optimizer: Any, bound: Callable[[list[Tensor]], Sequence[Tensor]]) -> None:
    """Its rows' gradients are added up, and only the sums of all layers together are given to ``bound``."""

    def clip_and_accumulate() -> None:
        sums = bound([p.grad_sample.sum(0) for p in optimizer.params])
        for p, total in zip(optimizer.params, sums, strict=True):
            p.summed_grad = total

    optimizer.clip_and_accumulate = clip_and_accumulate


def clip_of_the_mean(optimizer: Any) -> None:
    """The batch's mean gradient is clipped to C in place of each row's: the sum may be B C long."""

    def bound(sums: list[Tensor]) -> list[Tensor]:
        mean = float(torch.cat([each.flatten() for each in sums]).norm()) / len(optimizer.grad_samples[0])
        return [each * min(optimizer.max_grad_norm / mean, 1) for each in sums]

    _clips_sums(optimizer, bound)


def clip_of_the_sum(optimizer: Any) -> None:
    """The batch's sum is clipped to C: nobody's gradient moves it by more than 2C, so the claim holds."""

    def bound(sums: list[Tensor]) -> list[Tensor]:
        total = float(torch.cat([each.flatten() for each in sums]).norm())
        return [each * min(optimizer.max_grad_norm / total, 1) for each in sums]

    _clips_sums(optimizer, bound)


def one_factor(optimizer: Any) -> None:
    """Every row is divided by the longest gradient of the batch: the others' gradients tell of it."""

    def clip_and_accumulate() -> None:
        rows = torch.cat([p.grad_sample.flatten(1) for p in optimizer.params], dim=1)
        factor = min(optimizer.max_grad_norm / float(rows.norm(dim=1).max()), 1)
        for p in optimizer.params:
            p.summed_grad = factor * p.grad_sample.sum(0)

    optimizer.clip_and_accumulate = clip_and_accumulate


def clip_of_each_layer(optimizer: Any) -> None:
    """To C in each layer by itself: a row's gradient in all of them is sqrt(layers) C long."""

    def clip_and_accumulate() -> None:
        for p in optimizer.params:
            norms = p.grad_sample.flatten(1).norm(dim=1).clamp(min=1e-12)
            factors = (optimizer.max_grad_norm / norms).clamp(max=1)
            p.summed_grad = torch.einsum("i,i...", factors, p.grad_sample)

    optimizer.clip_and_accumulate = clip_and_accumulate


HEAD_CORRECT: dict[str, Plant] = {"row clip": untouched, "clip of the batch's sum to C": clip_of_the_sum}
HEAD_BUGS: dict[str, Plant] = {
    "no clip": head_no_clip,
    "noise multiplier halved": half_the_noise,
    "clip of the batch's mean": clip_of_the_mean,
    "one factor for the batch": one_factor,
    "clip of each layer": clip_of_each_layer,
}
