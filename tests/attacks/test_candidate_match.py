# SPDX-License-Identifier: Apache-2.0
"""Matching candidates: against brute force, and against the rate that theory gives for orthogonal ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn

from splitguard.api import ATTACKS, View
from splitguard.errors import BadSetting
from splitguard.privacy import candidate_bound
from tests.attacks.views import Halved, Noise, gen, network, sent_view, smooth

CONV = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))


def test_it_is_the_argmin_over_all_releases_and_candidates() -> None:
    made, x, sigma = [network(s, CONV) for s in range(3)], smooth(5), 1.5
    made_by = [[0, 1, 2], [0, 0, 1], [2, 2], [1], [0, 2]]
    candidates = smooth(7, seed=9)
    view = sent_view(x, made, made_by, defense=Noise(sigma), candidates=candidates)
    guess = ATTACKS.build("candidate-match").run(view, gen())
    rows = view.releases
    brute = torch.zeros(5, 7)
    for e in range(len(rows)):
        sent = rows.smashed[e]
        brute[int(rows.ids[e]) - 100] += (made[int(rows.head[e])](candidates) - sent).square().flatten(1).sum(
            1
        ) / sigma**2
    assert guess.choices is not None
    assert guess.scores is not None
    assert torch.equal(guess.choices, brute.argmin(1))
    # Log likelihoods up to a constant a victim: averaging the releases of one head drops what no candidate changes.
    ours, theirs = guess.scores - guess.scores[:, :1], -(brute - brute[:, :1]) / 2
    assert torch.allclose(ours, theirs, atol=1e-3, rtol=1e-4)


def orthogonal(
    victims: int, sigma: float, releases: int, *, adaptive: bool = True, seed: int = 0, law: str = "gaussian"
) -> tuple[View, int]:
    """64 candidates whose releases are orthogonal unit vectors; victim n is candidate n mod 64."""
    candidates = torch.eye(64).view(64, 1, 8, 8)
    x = candidates[torch.arange(victims) % 64]
    identity = nn.Sequential(nn.Flatten())
    made_by = [[0] * releases] * victims
    view = sent_view(
        x,
        [identity],
        made_by,
        defense=Noise(sigma, law=law),
        candidates=candidates,
        adaptive=adaptive,
        aux=x[:64],
        seed=seed,
    )
    return view, 64


def theory(signal: float, candidates: int) -> float:
    """P(the right one of N orthogonal signals of length ``signal`` under unit noise is the most likely)."""
    return float(quad(lambda u: norm.pdf(u - signal) * norm.cdf(u) ** (candidates - 1), -10, 20)[0])


@pytest.mark.parametrize(("sigma", "releases"), [(0.5, 1), (1.0, 4), (1.0, 9)])
def test_orthogonal_candidates_are_named_at_the_theoretical_rate(sigma: float, releases: int) -> None:
    victims = 960
    view, count = orthogonal(victims, sigma, releases)
    choices = ATTACKS.build("candidate-match").run(view, gen()).choices
    assert choices is not None
    rate = float((choices == torch.arange(victims) % count).double().mean())
    expected = theory(np.sqrt(releases) / sigma, count)
    assert abs(rate - expected) < 4 * (expected * (1 - expected) / victims) ** 0.5
    # The bound is for replacing a vector of length C by any other, so it lies above the best attack on these.
    assert expected < candidate_bound(candidates=count, sigma=sigma, clip=1, releases=releases)


def test_an_attacker_that_is_not_adaptive_has_one_release_to_go_by() -> None:
    victims = 640
    view, count = orthogonal(victims, 1.0, 9, adaptive=False)
    choices = ATTACKS.build("candidate-match").run(view, gen()).choices
    assert choices is not None
    rate = float((choices == torch.arange(victims) % count).double().mean())
    expected = theory(1.0, count)
    assert abs(rate - expected) < 4 * (expected * (1 - expected) / victims) ** 0.5


@pytest.mark.parametrize("releases", [4, 9])
def test_laplace_noise_is_met_by_its_own_likelihood(releases: int) -> None:
    """Among orthogonal candidates the rate is that of the likeliest one, ties by lot, in a simulation."""
    victims, sigma = 960, 0.5 * releases**0.5
    view, count = orthogonal(victims, sigma, releases, law="laplace")
    choices = ATTACKS.build("candidate-match").run(view, gen()).choices
    assert choices is not None
    rate = float((choices == torch.arange(victims) % count).double().mean())
    draws = np.random.default_rng(0).laplace(scale=sigma / 2**0.5, size=(4000, releases, 64))
    draws[:, :, 0] += 1
    apart = np.abs(draws).sum(1)
    likely = apart.sum(1, keepdims=True) - apart + np.abs(draws - 1).sum(1)
    likely += 1e-9 * np.random.default_rng(1).random(likely.shape)
    best = float((likely.argmin(1) == 0).mean())
    assert abs(rate - best) < 4 * (best * (1 - best) * (1 / victims + 1 / 4000)) ** 0.5
    assert best > theory(releases**0.5 / sigma, count) + 0.03  # which is what Gaussian noise would leave


def test_without_noise_every_candidate_is_named_through_the_defense() -> None:
    made, x = [network(0, CONV)], smooth(6)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    view = sent_view(x[order], made, [[0]] * 6, defense=Halved(), candidates=x)
    guess = ATTACKS.build("candidate-match").run(view, gen())
    assert guess.choices is not None
    assert torch.equal(guess.choices, order)


def test_releases_are_counted_from_one() -> None:
    with pytest.raises(BadSetting, match="releases must be at least 1; got 0"):
        ATTACKS.build("candidate-match", releases=0)
