# SPDX-License-Identifier: Apache-2.0
"""Matching candidates: by brute force, at the rate of theory for orthogonal ones, and never above the bound."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor, nn

from splitguard.api import ATTACKS, DEFENSES, View
from splitguard.building.likelihood import SAMPLE
from splitguard.defenses.gaussian import Gaussian
from splitguard.engine.mechanism import as_mechanism
from splitguard.errors import BadSetting
from splitguard.matrix import Matrix, load
from splitguard.metrics.stats import clopper_pearson
from splitguard.privacy import candidate_bound, candidate_orthogonal, sigma
from splitguard.reports.candidates import Match, matches
from splitguard.reports.gather import deployments
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


@pytest.mark.parametrize(("given", "read"), [(40, 40), (300, SAMPLE)])
def test_it_counts_the_auxiliary_rows_behind_its_variances(given: int, read: int) -> None:
    x = smooth(3)
    view = sent_view(x, [network(0, CONV)], [[0]] * 3, defense=Noise(0.5), candidates=x, aux=smooth(given, seed=50))
    assert ATTACKS.build("candidate-match").run(view, gen()).budget.aux == read


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


class HalfNoise(Gaussian):
    """Half of the sigma that it claims and tells."""

    def unit_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return super().unit_noise(like, generator) / 2


#: Settings of the noise, N, T, and victims enough to tell the attack's rate from 80 % of the bound.
GAMES: list[tuple[dict[str, float], int, int, int]] = [
    ({"sigma": 0.75}, 64, 1, 3000),  # C / sigma = 2, where the rate is the least share of the bound, .869
    ({"epsilon": 40.0}, 64, 2, 1000),
    ({"sigma": 1.5}, 64, 9, 600),
    ({"epsilon": 50.0}, 16, 4, 500),
    ({"sigma": 1.0}, 2, 1, 500),
]


def named(kind: type[Gaussian], noise: dict[str, float], count: int, releases: int, victims: int) -> int:
    """Hits among orthogonal candidates of norm C = 1.5, ``victims`` of them sent through the defense."""
    defense = kind(**noise, clip=1.5)  # type: ignore[arg-type]  # floats all
    as_mechanism(defense, shape=(64,), batch=1, releases=releases)  # binds it behind a head that is the identity
    candidates, hits, at_once = 1.5 * torch.eye(64)[:count].view(count, 1, 8, 8), 0, 500
    for first in range(0, victims, at_once):
        sent = torch.arange(first, min(first + at_once, victims)) % count
        made_by = [[0] * releases] * len(sent)
        heads = [nn.Sequential(nn.Flatten())]
        view = sent_view(candidates[sent], heads, made_by, defense=defense, candidates=candidates, seed=first)
        choices = ATTACKS.build("candidate-match").run(view, gen()).choices
        assert choices is not None
        hits += int((choices == sent).sum())
    return hits


def claimed_bound(noise: dict[str, float], count: int, releases: int) -> float:
    """What the settings promise, whatever the defense makes of them."""
    std = noise.get("sigma") or sigma(epsilon=noise["epsilon"], clip=1.5, releases=releases, delta=1e-5)
    return candidate_bound(candidates=count, sigma=std, clip=1.5, releases=releases)


@pytest.mark.parametrize(("noise", "count", "releases", "victims"), GAMES)
def test_hits_reach_80_percent_of_the_bound_and_never_beat_it(
    noise: dict[str, float], count: int, releases: int, victims: int
) -> None:
    hits, bound = named(Gaussian, noise, count, releases, victims), claimed_bound(noise, count, releases)
    found = clopper_pearson(hits, victims)
    assert 0.8 * bound <= found.low <= bound
    assert found.high < 1


@pytest.mark.parametrize(("noise", "count", "releases"), [game[:3] for game in GAMES])
def test_half_the_claimed_noise_is_caught_by_the_bound(noise: dict[str, float], count: int, releases: int) -> None:
    hits = named(HalfNoise, noise, count, releases, 500)
    assert clopper_pearson(hits, 500).low > claimed_bound(noise, count, releases)


def each_pixel_by_itself() -> nn.Module:
    """A network whose head keeps images with one bright pixel orthogonal and of one norm."""
    layers = {"conv1": nn.Conv2d(1, 1, 1, bias=False), "flatten": nn.Flatten(), "fc1": nn.Linear(256, 2)}
    return nn.Sequential(OrderedDict(layers))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[tuple[str, bool], Match]]:
    """`candidate-match` in a matrix of 64 members and 64 queries, each with one bright pixel, by defense."""
    folder = tmp_path_factory.mktemp("pixels")
    pixels = np.eye(256, dtype=np.uint8).reshape(256, 16, 16) * 255
    np.savez(folder / "pixels.npz", train_images=pixels, train_labels=np.arange(256) // 16 % 2)
    victims = {"member": 64, "query": 64}
    matrix: dict[str, Any] = {
        "data": {"name": "npz", "path": str(folder / "pixels.npz"), "train": 64, "victims": victims},
        "model": {"factory": f"{__name__}:{each_pixel_by_itself.__name__}"},
        "cut": "conv1",
        "defense": [{name: {"epsilon": 24.0}} for name in ("gaussian", "half-noise")],
        "train": {"epochs": 4, "batch_size": 32, "head": "frozen", "pretrain_epochs": 1},
        "attack": "candidate-match",
        "adaptive": [True, False],
        "seeds": [0, 1],
    }
    DEFENSES.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEFENSES._found, "half-noise", HalfNoise)
        patch.setattr(HalfNoise, "name", "half-noise")
        Matrix(matrix).run(folder / "run", progress=False)
    found: dict[str, dict[tuple[str, bool], Match]] = {}
    for match in matches(deployments(load(folder / "run"))):
        cell = match.deployment.cell
        found.setdefault(cell.defense[0].name, {})[match.phase, cell.adaptive] = match
    return found


def test_in_a_matrix_hits_do_not_beat_the_bound_that_it_stores(judged: dict[str, dict[Any, Match]]) -> None:
    found, noise = judged["gaussian"], sigma(epsilon=24.0, clip=1.0, releases=4, delta=1e-5)
    assert set(found) == {(phase, adaptive) for phase in ("training", "query") for adaptive in (True, False)}
    for (phase, adaptive), match in found.items():
        sent = 4 if phase == "training" else 1
        limit = candidate_bound(candidates=64, sigma=noise, clip=1.0, releases=sent)
        assert match.n == 128
        assert match.bound == pytest.approx(limit, rel=1e-6)
        assert not match.exceeds
        # Its rate is that of orthogonal candidates; who is not adaptive has one release to go by.
        used = sent if adaptive else 1
        rate = candidate_orthogonal(candidates=64, sigma=noise, clip=1.0, releases=used)
        assert match.interval.low < rate < match.interval.high


def test_in_a_matrix_half_the_claimed_noise_is_flagged(judged: dict[str, dict[Any, Match]]) -> None:
    found = judged["half-noise"]
    assert [match.bound for match in found.values()] == [match.bound for match in judged["gaussian"].values()]
    # In training all four releases are needed to beat the bound for four.
    exceeding = {("training", True), ("query", True), ("query", False)}
    assert {which for which, match in found.items() if match.exceeds} == exceeding
