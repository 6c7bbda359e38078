# SPDX-License-Identifier: Apache-2.0
"""Critics: the gradient penalty in closed form, losses against theirs, and no row that feels another."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitguard.building.critics import gradient_penalty, looks_like, make_critic, told_apart
from splitguard.errors import BadSetting
from tests.attacks.views import gen

SHAPES = [(3, 8, 8), (2, 25, 25), (1, 7, 12), (5, 1, 1), (20,), (6, 4)]


def test_the_penalty_of_a_linear_critic_is_known() -> None:
    """The slope is w everywhere. A norm over some of the axes only, channel by channel say, gives another number."""
    w = torch.randn(4, 3, 5, generator=gen(), dtype=torch.float64).requires_grad_()
    one, other = (torch.randn(6, 4, 3, 5, generator=gen(s), dtype=torch.float64) for s in (1, 2))
    found = gradient_penalty(lambda x: (x * w).flatten(1).sum(1), one, other, gen())
    torch.testing.assert_close(found, (w.norm() - 1) ** 2)
    [slope] = torch.autograd.grad(found, w)
    torch.testing.assert_close(slope, 2 * (w.norm() - 1) * w / w.norm())
    flat = gradient_penalty(lambda x: (x * w).flatten(1).sum(1), one, other, gen(), slope=0.0)
    torch.testing.assert_close(flat, w.square().sum())
    per_channel = ((w.square().sum((1, 2)).sqrt() - 1) ** 2).mean()
    assert abs(float((found - per_channel).detach())) > 1


def test_the_penalty_looks_between_the_two_batches() -> None:
    """The slope of ||x||^2 / 2 is x, so the penalty tells where it was taken."""

    def half_square(x: Tensor) -> Tensor:
        return x.flatten(1).square().sum(1) / 2

    one = torch.randn(500, 7, generator=gen(), dtype=torch.float64)
    same = gradient_penalty(half_square, one, one, gen())
    torch.testing.assert_close(same, (one.norm(dim=1) - 1).square().mean())
    # On the way from -1 to 1 in one dimension: |2u - 1| is uniform, and (|2u - 1| - 1)^2 is 1/3 in the mean.
    ends = torch.ones(20_000, 1, dtype=torch.float64)
    between = float(gradient_penalty(half_square, ends, -ends, gen()).detach())
    assert abs(between - 1 / 3) < 4 * (1 / 5 - 1 / 9) ** 0.5 / 20_000**0.5  # four standard errors


def test_a_flat_critic_is_penalised_without_becoming_nan() -> None:
    w = torch.zeros(3, requires_grad=True)
    found = gradient_penalty(lambda x: x @ w, torch.ones(2, 3), torch.zeros(2, 3), gen())
    [slope] = torch.autograd.grad(found, w)
    assert float(found.detach()) == 1
    assert bool(torch.isfinite(slope).all())


def test_the_losses_are_cross_entropies() -> None:
    logits = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(looks_like(logits, True), -torch.sigmoid(logits).log().mean())
    torch.testing.assert_close(looks_like(logits, False), -(1 - torch.sigmoid(logits)).log().mean())
    assert float(told_apart(torch.zeros(3), torch.zeros(5))) == pytest.approx(2 * math.log(2))
    assert float(told_apart(torch.full((3,), 30.0), torch.full((5,), -30.0))) < 1e-9


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("classes", [0, 3])
def test_no_row_feels_another(shape: tuple[int, ...], classes: int) -> None:
    critic = make_critic(shape, width=8, blocks=1, classes=classes, generator=gen()).double()
    rows, labels = torch.randn(5, *shape, generator=gen(1), dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    together = critic(rows, labels)
    assert together.shape == (5,)
    for n in range(5):
        torch.testing.assert_close(critic(rows[n : n + 1], labels[n : n + 1])[0], together[n])


@pytest.mark.parametrize("shape", SHAPES)
def test_only_a_conditional_critic_minds_the_label(shape: tuple[int, ...]) -> None:
    rows = torch.randn(2, *shape, generator=gen(1))
    for classes in (0, 3):
        critic = make_critic(shape, width=8, blocks=1, classes=classes, generator=gen())
        one, other = critic(rows, torch.tensor([0, 1])), critic(rows, torch.tensor([0, 2]))
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1]) == (classes == 0)


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2))
def test_any_map_will_do(channels: int, height: int, width: int, blocks: int) -> None:
    critic = make_critic((channels, height, width), width=4, blocks=blocks, generator=gen())
    assert critic(torch.zeros(2, channels, height, width)).shape == (2,)


def test_weights_come_from_the_generator_alone(rng_untouched: Callable[[], AbstractContextManager[None]]) -> None:
    with rng_untouched():
        one, same, other = (make_critic((2, 6, 6), width=4, blocks=1, generator=gen(s)) for s in (0, 0, 1))
    rows = torch.randn(3, 2, 6, 6, generator=gen(2))
    assert torch.equal(one(rows), same(rows))
    assert not torch.equal(one(rows), other(rows))


def test_it_learns_to_tell_two_sources_apart() -> None:
    """Two kinds of map with the same mean and variance at each place: only the neighbourhood tells."""
    critic = make_critic((1, 8, 8), width=8, blocks=1, generator=gen())
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)

    def draw(seed: int) -> tuple[Tensor, Tensor]:
        rough = torch.randn(32, 1, 8, 8, generator=gen(seed))
        smooth = torch.randn(32, 1, 4, 4, generator=gen(seed + 1000)).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return rough, smooth

    for step in range(60):
        rough, smooth = draw(step)
        optimizer.zero_grad()
        torch.autograd.backward(told_apart(critic(rough), critic(smooth)))
        optimizer.step()
    rough, smooth = draw(500)
    right = torch.cat([critic(rough) > 0, critic(smooth) < 0]).float().mean()
    assert float(right) > 0.9


@pytest.mark.parametrize("how", [{"width": 0}, {"blocks": -1}, {"dropout": 1.0}])
def test_impossible_sizes_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match=r"width >= 1, blocks >= 0 and 0 <= dropout < 1; got"):
        make_critic((1, 4, 4), **{"width": 4, "blocks": 1, "generator": gen(), **how})
