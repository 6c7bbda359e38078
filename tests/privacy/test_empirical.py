# SPDX-License-Identifier: Apache-2.0
"""A claimed epsilon survives the strongest attack on simulated releases; the usual wrong claims do not."""

from __future__ import annotations

import math

import pytest
import torch

from splitguard.privacy import Adjacency, epsilon, sensitivity
from splitguard.seeding import generator


@pytest.mark.parametrize("releases", [1, 4])
def test_the_epsilon_survives_an_attack_and_half_the_sensitivity_does_not(releases: int) -> None:
    """The worst pair, two opposite rows at distance 2C, attacked with the likelihood ratio of all releases."""
    clip, noise, delta, n = 0.7, 1.4, 1e-2, 1_000_000
    rows = torch.tensor([[9.0, 0.0], [-9.0, 0.0]])
    rows = rows * (clip / rows.norm(dim=1, keepdim=True)).clamp(max=1)
    draws = generator(0, "attack")

    def log_ratio(truth: int) -> torch.Tensor:
        """(n,): log p(releases | row 0) - log p(releases | row 1); only the first coordinate differs."""
        seen = rows[truth, 0] + noise * torch.randn(n, releases, generator=draws)
        gap: torch.Tensor = (seen - rows[1, 0]).double().square() - (seen - rows[0, 0]).double().square()
        return torch.sum(gap, 1) / (2 * noise**2)

    ratio, other = log_ratio(0), log_ratio(1)
    eps = epsilon(sigma=noise, clip=clip, releases=releases, delta=delta)

    stick = (1 - (eps - ratio).exp()).clamp(min=0)  # E_P[(1 - e^eps q/p)+] is delta
    assert abs(float(stick.mean()) - delta) < 4 * float(stick.std()) / math.sqrt(n)

    hit, false = float((ratio > eps).double().mean()), float((other > eps).double().mean())
    error = math.sqrt((hit + math.exp(2 * eps) * false) / n)  # of the next line, Poisson counts
    assert abs(hit - math.exp(eps) * false - delta) < 4 * error

    claims = [epsilon(sigma=noise, clip=clip, releases=releases, delta=delta, adjacency="zero-out")]
    if releases > 1:
        claims.append(epsilon(sigma=noise, clip=clip, delta=delta))
    for wrong in claims:
        stick = (1 - (wrong - ratio).exp()).clamp(min=0)
        assert float(stick.mean()) - delta > 20 * float(stick.std()) / math.sqrt(n)


@pytest.mark.parametrize("adjacency", ["replace-one", "zero-out"])
def test_the_adversary_can_move_a_row_by_the_sensitivity_and_no_more(adjacency: Adjacency) -> None:
    rows = torch.randn(2000, 2, 3, generator=generator(0, "rows")) * 4
    rows[0, 1] = -rows[0, 0]
    clipped = rows * (1.5 / rows.norm(dim=2, keepdim=True)).clamp(max=1)
    moved = clipped[:, 0] - (clipped[:, 1] if adjacency == "replace-one" else 0)
    assert float(moved.norm(dim=1).max()) == pytest.approx(sensitivity(1.5, adjacency), rel=1e-6)
