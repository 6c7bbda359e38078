# SPDX-License-Identifier: Apache-2.0
"""Views built by hand, whose truth is known exactly."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from splitguard.api import Defense, Known, Labels, Mode, Party, Phase, Profile, Releases, Rows, View
from splitguard.engine.threat import everything
from splitguard.engine.view import Models


class Noise(Defense):
    """z + N(0, sigma^2), or Laplace noise of that variance, with or without telling how large sigma is."""

    def __init__(self, sigma: float, *, told: bool = True, law: str = "gaussian") -> None:
        self.sigma, self.told, self.law = sigma, told, law

    @property
    def noise_law(self) -> str:
        return self.law

    def noise_std(self) -> float:
        return self.sigma if self.told else 0.0

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        if self.law == "laplace":
            even = torch.rand(smashed.shape, generator=generator, dtype=torch.float64) - 0.5
            return smashed - self.sigma / 2**0.5 * (even.sign() * torch.log1p(-2 * even.abs())).to(smashed)
        return smashed + self.sigma * torch.randn(smashed.shape, generator=generator)


class Halved(Defense):
    """Half of z: what is sent without noise differs from what the head makes."""

    def mean_release(self, smashed: Tensor) -> Tensor:
        return smashed / 2

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return smashed / 2


class Mute(Defense):
    """Sends all, and tells those who know it that it sends nothing: to know it is to lose."""

    def residual(self, made: Tensor, sent: Tensor) -> Tensor:
        return 0 * (made - sent)


class Centre(nn.Module):
    """2x - 1, as networks do that normalise inside; without it no ReLU of a random head ever switches."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def rows_of(inputs: Tensor, first: int = 0) -> Rows:
    """Rows with label 0."""
    count = len(inputs)
    return Rows(inputs, torch.zeros(count, dtype=torch.int64), torch.arange(first, first + count))


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(count: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> Tensor:
    """Images (count, *shape) in [0, 1] with more low than high frequencies."""
    coarse = torch.rand(count, shape[0], 3, 3, generator=gen(seed))
    fine = torch.rand(count, *shape, generator=gen(seed + 1))
    return 0.9 * nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear") + 0.1 * fine


def network(seed: int, make: Sequence[nn.Module]) -> nn.Sequential:
    """Layers with weights drawn afresh from the seed, in eval mode."""
    out = copy.deepcopy(nn.Sequential(*make)).eval().requires_grad_(False)
    draws = gen(seed)
    for parameter in out.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
        parameter.copy_(torch.randn(parameter.shape, generator=draws) / fan**0.5)
    return out


_CONV = (
    nn.Conv2d(1, 4, 3, padding=1),
    nn.BatchNorm2d(4),
    nn.ReLU(inplace=True),
    nn.MaxPool2d(2),
    nn.Conv2d(4, 3, 3),
    nn.ReLU(),
)


def convs(count: int) -> list[nn.Module]:
    """Heads that differ in weights and in BatchNorm's statistics."""
    out: list[nn.Module] = []
    for seed in range(count):
        made = network(seed, _CONV)
        norm = made[1]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        norm.running_mean += 0.1 * seed
        out.append(made)
    return out


def sent_view(
    inputs: Tensor,
    heads: Sequence[nn.Module],
    made_by: Sequence[Sequence[int]],
    *,
    defense: Defense | None = None,
    aux: Tensor | None = None,
    candidates: Tensor | None = None,
    adaptive: bool = True,
    phase: Phase = Phase.QUERY,
    seed: int = 0,
) -> View:
    """A server's view of victims 100, 101, ... whose n-th was sent by the heads ``made_by[n]``, in that order.

    Head -1 is the deployed one, which is the last of ``heads``, and stands for a snapshot that was not kept.
    """
    defense = defense or Defense()
    draws = gen(seed)
    owner = torch.tensor([n for n, own in enumerate(made_by) for _ in own])
    at = torch.tensor([h for own in made_by for h in own])
    made = torch.cat([heads[h](inputs[n : n + 1]) for n, h in zip(owner.tolist(), at.tolist(), strict=True)])
    order = torch.arange(len(owner))
    releases = Releases(
        ids=100 + owner,
        epoch=order,
        step=order,
        client=torch.zeros_like(order),
        head=at,
        batch=torch.ones_like(order),
        smashed=defense.released_like(made, draws),
    )
    return _view(
        heads,
        ids=100 + torch.arange(len(inputs)),
        input_shape=tuple(inputs.shape[1:]),
        cut_shape=tuple(made.shape[1:]),
        defense=defense,
        adaptive=adaptive,
        phase=phase,
        releases=releases,
        aux=rows_of(smooth(40, (1, 8, 8), seed=50) if aux is None else aux, 1000),
        candidates=candidates,
    )


def label_view(
    gradients: Tensor,
    labels: Tensor,
    known: Sequence[int],
    classes: int,
    *,
    party: Party = Party.SERVER,
) -> View:
    """A view of per-sample gradients (R, D) for rows 0..R-1, the labels of ``known`` given; the others are victims."""
    count = len(gradients)
    order = torch.arange(count)
    own = torch.tensor(known, dtype=torch.int64)
    context = Releases(
        ids=order,
        epoch=torch.zeros_like(order),
        step=order // 4,
        client=torch.zeros_like(order),
        head=torch.full_like(order, -1),
        batch=torch.full_like(order, 4),
        smashed=torch.zeros(count, 1),
        returned_grad=gradients if party is Party.SERVER else None,
        cut_grad=gradients if party is Party.CLIENT else None,
    )
    return _view(
        [nn.Identity()],
        ids=order[~torch.isin(order, own)],
        input_shape=(1, 8, 8),
        cut_shape=tuple(gradients.shape[1:]),
        classes=classes,
        party=party,
        labels=Labels.CLIENT if party is Party.SERVER else Labels.SERVER,
        context=context,
        known=Known(own, labels[own]),
    )


def _view(
    heads: Sequence[nn.Module],
    *,
    ids: Tensor,
    input_shape: tuple[int, ...],
    cut_shape: tuple[int, ...],
    defense: Defense | None = None,
    adaptive: bool = True,
    phase: Phase = Phase.TRAINING,
    classes: int = 2,
    party: Party = Party.SERVER,
    labels: Labels = Labels.SENT,
    releases: Releases | None = None,
    context: Releases | None = None,
    aux: Rows | None = None,
    known: Known | None = None,
    candidates: Tensor | None = None,
) -> View:
    shield = defense or Defense()
    models = Models(
        head=lambda at: copy.deepcopy(heads[-1 if at is None else at]),
        body=nn.Identity,
        tail=lambda at: nn.Identity(),
        blank_head=lambda generator: copy.deepcopy(heads[-1]),
        query=lambda inputs, generator: shield.released_like(heads[-1](inputs), generator),
        state=lambda at: {f"head.{k}": v for k, v in heads[at].state_dict().items()},
    )
    return View(
        granted=everything(),
        party=party,
        profile=Profile.HEAD_KNOWN,
        mode=Mode.VANILLA,
        labels=labels,
        cuts=("cut",),
        phase=phase,
        ids=ids,
        input_shape=input_shape,
        cut_shapes=(cut_shape,),
        classes=classes,
        defense=shield,
        models=models,
        adaptive=adaptive,
        _releases=releases,
        _context=context,
        _aux=aux,
        _class_prior=torch.full((classes,), 1 / classes, dtype=torch.float64),
        _known=known,
        _candidates=candidates,
    )
