# SPDX-License-Identifier: Apache-2.0
"""Minimises a loss over many inputs at once, each input a problem of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from splitguard.errors import BadSetting, Diverged

__all__ = ["Optimum", "optimise_inputs"]

Scale = Callable[[Tensor], Tensor]
#: Armijo's share of the expected decrease that a step must bring, and what a refused step is multiplied by.
SUFFICIENT, SHRINK = 1e-4, 0.3
#: The first step moves no coordinate by more than this share of the range.
FIRST = 0.1
#: Over this last share of the steps the gain of a row is measured, and over so many steps at least: twelve in a row may
#: be refused before a row tries another direction. Below `GAIN` a row counts as converged.
LAST, LEAST, GAIN = 0.2, 20, 0.01


@dataclass(frozen=True)
class Optimum:
    """Where `optimise_inputs` ended.

    Attributes:
        inputs: (N, *in), within the bounds.
        losses: (N,), at ``inputs``.
        steps: evaluations of the loss and its gradient.
        converged: the loss of no row gained 1 % or more over the last 20 % of its steps, at least 20.
    """

    inputs: Tensor
    losses: Tensor
    steps: int
    converged: bool


def optimise_inputs(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    steps: int,
    low: float = 0.0,
    high: float = 1.0,
    scale: Scale | None = None,
    memory: int = 30,
    tolerance: float = 1e-3,
) -> Optimum:
    """Projected L-BFGS on every row of ``start`` at once.

    Each row keeps its own curvature pairs and step length and comes to rest by itself, so that it ends where it would
    end alone; each round costs one batched evaluation, in which a row takes its step, shortens it, or is at rest, and
    stays so. Coordinates at a bound that the
    gradient would push outwards stand still (Bertsekas' two-metric projection). The inverse Hessian starts from
    ``scale``: with the covariance of natural images there, low frequencies are found in tens of steps instead of
    thousands.

    Args:
        loss: inputs (N, *in) to losses (N,), where the loss of a row depends on that row alone.
        start: (N, *in).
        steps: evaluations at most; fewer where all rows are at rest.
        low: lower bound of every coordinate.
        high: upper bound.
        scale: directions (N, *in) to directions, linear, symmetric and positive definite; None for the identity.
        memory: curvature pairs kept a row.
        tolerance: a row is at rest when its loss gained no more than this share over the last 20 % of the steps, at
            least 20.

    Raises:
        BadSetting: for bounds without room, fewer than 1 step or a memory of 0.
        Diverged: if the loss is not finite at the start.

    Source: Nocedal, Updating quasi-Newton matrices with limited storage, 1980; Bertsekas, Projected Newton methods for
    optimization problems with simple constraints, 1982.
    """
    if not low < high or steps < 1 or memory < 1:
        raise BadSetting(
            f"optimise_inputs needs low < high and at least one step and pair; got [{low}, {high}], steps={steps}, "
            f"memory={memory}"
        )
    shape = start.shape

    def evaluate(flat: Tensor) -> tuple[Tensor, Tensor]:
        inputs = flat.view(shape).detach().requires_grad_(True)
        with torch.enable_grad():
            losses = loss(inputs)
            (gradient,) = torch.autograd.grad(losses.sum(), inputs)
        return losses.detach(), gradient.flatten(1)

    def scaled(directions: Tensor) -> Tensor:
        return directions if scale is None else scale(directions.view(shape)).flatten(1)

    x = start.detach().flatten(1).clamp(low, high)
    f, g = evaluate(x)
    if not bool(torch.isfinite(f).all() and torch.isfinite(g).all()):
        raise Diverged("the loss, or its gradient, is not finite at the starting inputs; nothing was optimised")
    pairs = _Pairs(x, memory)
    direction, length = torch.zeros_like(x), torch.ones_like(f)
    due = torch.ones_like(f, dtype=torch.bool)
    path, resting = [f], torch.zeros_like(due)
    while len(path) < steps and not bool(resting.all()):
        if bool(due.any()):
            free = ~(((x <= low) & (g > 0)) | ((x >= high) & (g < 0)))
            fresh = -pairs.solve(g * free, scaled) * free
            uphill = _dot(fresh, g) >= 0
            fresh = torch.where(uphill[:, None], -g * free, fresh)
            careful = FIRST * (high - low) / fresh.abs().amax(1).clamp(min=torch.finfo(f.dtype).tiny)
            direction = torch.where(due[:, None], fresh, direction)
            length = torch.where(due, torch.where(pairs.empty | uphill, careful, torch.ones_like(f)), length)
        trial = (x + length[:, None] * direction).clamp(low, high)
        f_trial, g_trial = evaluate(trial)
        step = trial - x
        taken = (f_trial <= f + SUFFICIENT * _dot(g, step)) & ~resting  # False for NaN, which shortens the step
        pairs.add(step, g_trial - g, taken, scaled)
        x, g = torch.where(taken[:, None], trial, x), torch.where(taken[:, None], g_trial, g)
        f = torch.where(taken, f_trial, f)
        length = torch.where(taken, length, SHRINK * length)
        hopeless = ~taken & ~resting & (length < 1e-6)
        if bool(hopeless.any()):
            pairs.forget(hopeless)
        due = taken | hopeless
        path.append(f)
        resting = resting | _at_rest(path, tolerance)
    return Optimum(x.view(shape), f, len(path), bool((resting | _at_rest(path, GAIN)).all()))


def _at_rest(path: list[Tensor], tolerance: float) -> Tensor:
    """(N,): whether the last fifth of a row's steps, and 20 at least, gained no more than this share of its loss."""
    last = max(round(LAST * len(path)), LEAST)
    if len(path) <= last:
        return torch.zeros_like(path[-1], dtype=torch.bool)
    before = path[-1 - last]
    return before - path[-1] <= tolerance * before.abs()


class _Pairs:
    """The latest steps and changes of gradient of each row, kept in a ring of its own."""

    def __init__(self, x: Tensor, memory: int) -> None:
        self.memory, self.rows = memory, torch.arange(len(x), device=x.device)
        self.steps, self.changes = (x.new_zeros(memory, *x.shape) for _ in range(2))
        self.weights = x.new_zeros(memory, len(x))
        self.size = x.new_ones(len(x))
        self.count = torch.zeros_like(self.rows)

    @property
    def empty(self) -> Tensor:
        """(N,): the rows of which nothing is known."""
        return self.count == 0

    def forget(self, rows: Tensor) -> None:
        """Drops what was learned of the rows in a mask."""
        self.count = torch.where(rows, 0, self.count)

    def add(self, step: Tensor, change: Tensor, taken: Tensor, scaled: Scale) -> None:
        """Keeps the pairs of rows that took a step along which the curvature is positive."""
        along, length = _dot(step, change), _dot(change, scaled(change))
        good = taken & (along > 1e-10 * length) & (length > 0)
        at = (self.count % self.memory)[good], self.rows[good]
        self.steps[at], self.changes[at], self.weights[at] = step[good], change[good], 1 / along[good]
        self.size = torch.where(good, along / length, self.size)
        self.count = self.count + good

    def solve(self, gradient: Tensor, scaled: Scale) -> Tensor:
        """(N, P): the approximate inverse Hessian times ``gradient``, by the two-loop recursion."""
        out, parts = gradient.clone(), []
        ages = range(1, min(self.memory, int(self.count.max())) + 1)
        for age in ages:
            step, change, weight = self._pair(age)
            parts.append(weight * _dot(step, out))
            out.addcmul_(parts[-1][:, None], change, value=-1)
        out = self.size[:, None] * scaled(out)
        for age, part in zip(reversed(ages), reversed(parts), strict=True):
            step, change, weight = self._pair(age)
            out.addcmul_((part - weight * _dot(change, out))[:, None], step)
        return out

    def _pair(self, age: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row its pair of that age, 1 for the latest: step and change (N, P), and 1 / (s . y), 0 if none."""
        at = (self.count - age) % self.memory, self.rows
        return self.steps[at], self.changes[at], torch.where(age <= self.count, self.weights[at], 0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(N,): the inner product of each row."""
    out: Tensor = torch.linalg.vecdot(a, b)
    return out
