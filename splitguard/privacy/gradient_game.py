# SPDX-License-Identifier: Apache-2.0
"""The game behind an empirical epsilon of a head's weights: canaries among the rows' own gradients, played many times.

As in `splitguard.privacy.game`, worlds and statistics are fixed in advance. Whoever plays chooses every row's gradient,
as a server that returns what it likes can, sees how far the weights move at each of T steps, one an epoch, and asks
which of two gradients the one row had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from splitguard.errors import BadSetting
from splitguard.privacy.game import WORLDS, Played, played

__all__ = ["GRADIENT_STATISTICS", "Step", "play_gradients"]

Step = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]
"""A mechanism: the rows' own gradients (B, *shape), ids (B,), the step counted from 0, a generator; to B times what the
weights moved by, against the gradient and at a learning rate of 1, (*shape): the noisy sum of clipped gradients."""

GRADIENT_STATISTICS = ("alternating matched filter", "along minus across", "energy", "plain sum")


def play_gradients(
    step: Step,
    *,
    shape: tuple[int, ...],
    clip: float,
    batch: int,
    releases: int,
    trials: int,
    worlds: Sequence[str] = WORLDS,
    generator: torch.Generator,
) -> Iterator[Played]:
    """Plays each world of `splitguard.privacy.game.play` ``trials`` times on both sides, with gradients for rows.

    With u_t what the weights moved by at step t, v the world's unit vector and s_t its sign there (1 everywhere in the
    last world), a_t = (-1)^t, the statistics are sum_t a_t <u_t, v>; sum_t s_t (<u_t, v> - m_t), m_t the mean of u_t
    over the weights where v is 0, or 0 if there are none; sum_t |u_t|^2; sum_t <u_t, v>. Noise that is shared by
    several weights goes out of the second.

    Args:
        step: the mechanism; it begins anew at step 0, and every trial has row ids of its own.
        shape: of one row's gradient.
        clip: C, the bound that the mechanism claims for a row's gradient.
        batch: B, at least 2, as deployed.
        releases: T, the steps that a row takes part in.
        trials: of each side.
        worlds: some of `splitguard.privacy.game.WORLDS`, each by its name.
        generator: the mechanism draws from it.

    Raises:
        BadSetting: for a batch of one row, or a mechanism that moves other weights.
    """

    def see(rows: Tensor, direction: Tensor, ids: Tensor, number: int) -> Tensor:
        return _seen(step(rows, ids, number, generator), direction)

    return played(
        see, _statistics, shape=shape, clip=clip, batch=batch, releases=releases, trials=trials, worlds=worlds
    )


def _seen(moved: Tensor, direction: Tensor) -> Tensor:
    """(3,): the move along the direction, the mean of what lies across it, and the energy."""
    if moved.shape != direction.shape:
        raise BadSetting(
            f"the mechanism was given gradients of shape {tuple(direction.shape)} and moved weights of shape "
            f"{tuple(moved.shape)}; it must move the weights whose gradients it is given"
        )
    flat, unit = moved.detach().flatten().double(), direction.flatten().double()
    across = flat[unit == 0]
    return torch.stack([flat @ unit, across.mean() if len(across) else flat.new_zeros(()), flat @ flat])


def _statistics(seen: Tensor, signs: Tensor) -> Tensor:
    """(trials, 4) of what `_seen` saw, (trials, T, 3)."""
    along, across, energy = seen.unbind(2)
    alternating: Tensor = (-1.0) ** torch.arange(seen.shape[1], dtype=torch.float64)
    found = [alternating * along, signs * (along - across), energy, along]
    return torch.stack([each.sum(1) for each in found], dim=1)
