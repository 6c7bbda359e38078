# SPDX-License-Identifier: Apache-2.0
"""Minima that are known: linear heads, active bounds, another library; and what happens without one."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import lsq_linear
from torch import Tensor

from splitguard.building.optimise import optimise_inputs
from splitguard.building.priors import Spectrum
from splitguard.errors import BadSetting, Diverged


def problem(rows: int, size: int, made: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Matrices (rows, made, size) and inputs (rows, size) in [0, 1]."""
    gen = torch.Generator().manual_seed(seed)
    matrices = torch.randn(rows, made, size, generator=gen, dtype=torch.float64)
    return matrices, torch.rand(rows, size, generator=gen, dtype=torch.float64)


def squares(matrices: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (torch.einsum("nms,ns->nm", matrices, x) - targets).square().sum(1)


def test_a_linear_invertible_head_is_inverted() -> None:
    matrices, x = problem(3, 12, 15)
    loss = squares(matrices, torch.einsum("nms,ns->nm", matrices, x))
    found = optimise_inputs(loss, torch.full_like(x, 0.5), steps=200, tolerance=0)
    assert torch.allclose(found.inputs, x, atol=1e-6)


def test_at_active_bounds_it_agrees_with_scipy() -> None:
    matrices, _ = problem(4, 10, 12)
    targets = 5 * torch.randn(4, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = squares(matrices, targets)
    found = optimise_inputs(loss, torch.full((4, 10), 0.5, dtype=torch.float64), steps=300, tolerance=0)
    for n in range(4):
        reference = lsq_linear(matrices[n].numpy(), targets[n].numpy(), bounds=(0, 1), tol=1e-12)
        assert ((reference.x < 1e-6) | (reference.x > 1 - 1e-6)).sum() >= 3
        assert torch.allclose(found.inputs[n], torch.as_tensor(reference.x), atol=1e-5)


def test_rows_do_not_disturb_each_other() -> None:
    """Alone or beside a row of a quite different scale, a row takes the same path."""
    matrices, x = problem(3, 6, 8)
    targets = torch.einsum("nms,ns->nm", matrices, x)
    matrices[2], targets[2] = 1e3 * matrices[2], 1e3 * targets[2]
    start = torch.full_like(x, 0.5)
    together = optimise_inputs(squares(matrices, targets), start, steps=25, tolerance=0)
    for n in range(3):
        alone = optimise_inputs(
            squares(matrices[n : n + 1], targets[n : n + 1]),
            start[n : n + 1],
            steps=25,
            tolerance=0,
        )
        assert torch.allclose(together.inputs[n], alone.inputs[0], atol=1e-9)


def test_a_row_ends_where_it_would_end_alone_whatever_is_beside_it() -> None:
    """In Rosenbrock's valley, beside a row whose large loss never changes and one that is refused step after step."""

    def loss(x: Tensor, kinds: str = "vcn") -> Tensor:
        valley = 100 * (x[:, 1] - x[:, 0].square()).square() + (1 - x[:, 0]).square()
        narrow = torch.where((x - 0.5).abs() < 1e-4, x.square(), torch.nan).sum(1)
        of = {"v": valley, "c": 3000 + 0 * valley, "n": narrow}
        return torch.stack([of[kind][n] for n, kind in enumerate(kinds)])

    start = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    together = optimise_inputs(loss, start, steps=200, low=-2, high=2)
    for n, kind in enumerate("vcn"):
        alone = optimise_inputs(functools.partial(loss, kinds=kind), start[n : n + 1], steps=200, low=-2, high=2)
        assert torch.allclose(together.inputs[n], alone.inputs[0], rtol=0, atol=1e-9)
        assert alone.converged
        if kind == "v":
            assert together.steps == alone.steps > 50
            assert torch.allclose(alone.inputs, torch.ones(1, 2, dtype=torch.float64), atol=1e-3)
        if kind == "c":
            assert alone.steps < 30


def test_the_covariance_of_the_inputs_as_scale_saves_steps() -> None:
    """A quadratic whose curvature is the inverse of the scale is solved in a handful of steps, without it in many."""
    rows = torch.nn.functional.interpolate(
        torch.rand(200, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        size=(12, 12),
        mode="bilinear",
    )
    spectrum, start = Spectrum.fit(rows[10:]), torch.full((10, 1, 12, 12), 0.5, dtype=torch.float64)
    target = rows[:10].flatten(1)

    def loss(x: Tensor) -> Tensor:
        return spectrum.penalty(x) + 1e-3 * (x.flatten(1) - target).square().sum(1)

    scaled = optimise_inputs(loss, start, steps=12, scale=spectrum.colour, tolerance=0)
    plain = optimise_inputs(loss, start, steps=12, tolerance=0)
    best = optimise_inputs(loss, start, steps=300, scale=spectrum.colour, tolerance=0).losses
    assert float((scaled.losses / best - 1).max()) < 1e-3
    assert float((plain.losses / best - 1).min()) > 0.1


def test_steps_count_evaluations_and_rest_ends_them() -> None:
    calls = []

    def loss(x: Tensor) -> Tensor:
        calls.append(1)
        return (x - 0.25).square().sum(1) + 1

    found = optimise_inputs(loss, torch.full((2, 3), 0.9), steps=100)
    assert found.steps == len(calls) < 30
    assert found.converged
    assert torch.allclose(found.losses, torch.ones(2))
    cut_short = optimise_inputs(lambda x: x.sum(1) + 1e-3, torch.full((2, 3), 0.9), steps=3)
    assert cut_short.steps == 3
    assert not cut_short.converged


def test_a_step_into_the_undefined_is_shortened() -> None:
    """The loss is NaN below 0.2: a full step goes there from 0.9, and the minimum at 0.25 is found all the same."""

    def loss(x: Tensor) -> Tensor:
        return torch.where(x < 0.2, torch.nan, (x - 0.25).square() * 1e4).sum(1)

    found = optimise_inputs(loss, torch.tensor([[0.9], [0.3]]), steps=60)
    assert torch.allclose(found.inputs, torch.full((2, 1), 0.25), atol=1e-3)


def test_a_loss_that_is_not_finite_from_the_start_is_told() -> None:
    with pytest.raises(Diverged, match="not finite at the starting inputs"):
        optimise_inputs(lambda x: x.sum(1) / 0, torch.zeros(1, 2), steps=3)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"memory": 0}, {"low": 1.0, "high": 1.0}])
def test_settings_without_room_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadSetting, match="needs low < high and at least one step and pair"):
        optimise_inputs(lambda x: x.sum(1), torch.zeros(1, 2), **{"steps": 3, **wrong})  # type: ignore[arg-type]  # a float on purpose
