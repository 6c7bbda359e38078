# SPDX-License-Identifier: Apache-2.0
"""What the clipped Gaussian release guarantees: known numbers, no more than holds, and an attack on its epsilon."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch import Tensor, nn

from splitguard import privacy
from splitguard.api import Labels, Mode
from splitguard.defenses.gaussian import Gaussian
from splitguard.engine.bench import Bench
from splitguard.errors import BadSetting


@pytest.mark.parametrize(
    ("epsilon", "releases", "multiplier"),
    [(1, 1, 3.7306), (4, 1, 1.0812), (8, 1, 0.6002), (1, 10, 11.797), (4, 10, 3.419), (8, 10, 1.898)],
)
@pytest.mark.parametrize(("adjacency", "factor"), [("replace-one", 2), ("zero-out", 1)])
def test_the_noise_for_an_epsilon_is_the_known_one(
    epsilon: float, releases: int, multiplier: float, adjacency: privacy.Adjacency, factor: int
) -> None:
    defense = Gaussian(epsilon=epsilon, clip=3.0, adjacency=adjacency)
    Bench(defense, releases=releases)
    assert defense.noise_std() / (factor * 3.0) == pytest.approx(multiplier, rel=2e-4)  # the digits that are given
    [told] = defense.privacy()
    assert told.epsilon_rows == pytest.approx(epsilon, rel=1e-6)
    assert told.epsilon_rows is not None
    assert told.epsilon_rows <= epsilon
    assert (told.sensitivity, told.T, told.delta, told.adjacency) == (factor * 3.0, releases, 1e-5, adjacency)
    once = privacy.epsilon(sigma=defense.noise_std(), clip=3.0, releases=1, delta=1e-5, adjacency=adjacency)
    assert told.epsilon_query == once
    twin = Gaussian(sigma=defense.noise_std(), clip=3.0, adjacency=adjacency)
    Bench(twin, releases=releases)
    assert twin.privacy() == (told,)


def test_the_automatic_clip_is_the_median_norm_of_auxiliary_rows() -> None:
    defense = Gaussian(sigma=1.0)
    bench = Bench(defense)
    with torch.no_grad():
        smashed = bench.network.head(bench.deployment.aux.inputs).double().numpy()
    norms = np.sort(np.sqrt((smashed.reshape(8, -1) ** 2).sum(1)))
    [told] = bench.defense.privacy()
    assert told.sensitivity == pytest.approx(norms[3:5].sum(), rel=1e-6)  # twice the median of eight
    assert defense.clip == "auto"  # the setting is what was set: it is a key


def test_an_automatic_clip_needs_a_norm() -> None:
    deployment = Bench(Gaussian()).deployment
    for change in ({"aux": deployment.aux[:0]}, {"head": nn.Sequential(nn.Flatten(), nn.Threshold(9, 0))}):
        with pytest.raises(BadSetting, match=r"clip: auto is the median norm.*Give a number instead"):
            Gaussian().bind(dataclasses.replace(deployment, **change))


WHERE = [(Labels.SENT, None), (Labels.SERVER, None), (Labels.CLIENT, None), (Labels.SENT, Mode.SPLITFED)]


@pytest.mark.parametrize(("labels", "mode"), WHERE)
@pytest.mark.parametrize("mixing", [(), ("norm1",)])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("phases", [("training", "query"), ("training",), ("query",)])
def test_no_more_is_claimed_than_holds(
    labels: Labels, mode: Mode | None, mixing: tuple[str, ...], frozen: bool, phases: Any
) -> None:
    defense = Gaussian(epsilon=5.0, clip=1.0, phases=phases)
    Bench(defense, labels=labels, mode=mode, mixing=mixing, head_frozen=frozen, releases=4)
    [told] = defense.privacy()
    training, query = "training" in phases, "query" in phases
    assert (told.epsilon_rows is not None) == training
    assert (told.epsilon_query is not None) == query
    assert (told.epsilon is not None) == (training and frozen and not mixing)
    assert told.epsilon in (None, told.epsilon_rows)
    assert (4 if training else 1) == told.T
    assert (told.epsilon_rows or told.epsilon_query) == pytest.approx(5.0)
    sentence = str(told)
    assert ("the head is trained on raw inputs" in sentence) == (training and not frozen)
    assert ("norm1 mixes the rows" in sentence) == (training and bool(mixing))
    assert ("training rows are sent without clip or noise" in sentence) == (not training)
    assert ("in evaluation and in queries has neither" in sentence) == (not query)
    assert ("fed server" in sentence) == (mode is Mode.SPLITFED)
    by = {
        Labels.SENT: "they are sent",
        Labels.SERVER: "the server owns",
        Labels.CLIENT: "the returned gradient carries",
    }
    assert f"labels are held fixed and not protected: {by[labels]}" in sentence


def lower_bound(plus: Tensor, minus: Tensor, delta: float, *, confidence: float = 0.9999) -> float:
    """An empirical lower bound of epsilon from scores (2 n,) of two neighbouring inputs, larger for ``plus``.

    Every test obeys P(accept | plus) <= e^epsilon P(accept | minus) + delta. The threshold is chosen on one half of the
    scores; on the other one Clopper-Pearson limits make the bound hold with ``confidence``.
    """
    n, rest = len(plus) // 2, (1 - confidence) / 2

    def accepted(scores: Tensor, threshold: Tensor) -> int:
        return int((scores > threshold).sum())

    def ratio(threshold: Tensor) -> float:
        return (accepted(plus[:n], threshold) - delta * n) / (accepted(minus[:n], threshold) + 9)

    chosen = max(plus[:n].quantile(torch.linspace(0.02, 0.98, 97)), key=ratio)
    hits, misses = accepted(plus[n:], chosen), accepted(minus[n:], chosen)
    least, most = beta.ppf(rest, hits, n - hits + 1), beta.ppf(1 - rest, misses + 1, n - misses)
    return math.log(max(least - delta, 1e-300) / most)


@pytest.mark.parametrize(
    ("adjacency", "planned", "forgotten"),
    [("replace-one", 5, False), ("replace-one", 1, True), ("zero-out", 5, True)],
    ids=["honest", "T forgotten", "C for 2C"],
)
def test_an_attack_on_epsilon_finds_no_more_than_is_claimed_and_finds_an_error(
    adjacency: privacy.Adjacency, planned: int, forgotten: bool
) -> None:
    """The worst pair, +C e1 and -C e1, over five releases, played 60,000 times each."""
    delta, count, times = 0.05, 60_000, 5
    defense = Gaussian(epsilon=1.0, delta=delta, clip=2.0, adjacency=adjacency)
    bench = Bench(defense, releases=planned)
    far = torch.zeros(count, 2, 2)
    far[:, 0, 0] = 1e3
    gen = bench.gen()

    def score(sign: int) -> Tensor:
        # `released_like` is what `on_send` sends, without the ledger, which would refuse a forgotten release.
        sent = [defense.released_like(sign * far, gen) for _ in range(times)]
        return torch.stack(sent).sum(0)[:, 0, 0]

    found = lower_bound(score(1), score(-1), delta)
    if forgotten:
        assert found > 1.2
    else:
        assert 0.75 < found <= 1.0  # close to tight, so an accountant that is off would show
