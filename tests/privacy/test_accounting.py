# SPDX-License-Identifier: Apache-2.0
"""Epsilon and noise against published tables, Opacus, and arithmetic of 60 digits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opacus.accountants.analysis.gdp import delta_eps_mu, eps_from_mu

from splitguard.errors import BadSetting
from splitguard.privacy import (
    Adjacency,
    compose_mu,
    delta_of,
    epsilon,
    epsilon_of,
    mu_of,
    sensitivity,
    sigma,
    verdict,
)

mpmath = pytest.importorskip("mpmath")  # torch brings it

EPSILONS = st.floats(0.1, 50)
DELTAS = st.floats(-9, -3).map(lambda power: 10.0**power)
COUNTS = st.integers(1, 10_000)
SIGMAS = st.floats(-2, 3).map(lambda power: 10.0**power)


def slow_delta(eps: float, mu: float) -> float:
    """The definition, term by term, in 60 digits."""
    with mpmath.workdps(60):
        e, m = mpmath.mpf(eps), mpmath.mpf(mu)
        return float(mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m))


@pytest.mark.parametrize(
    ("eps", "releases", "multiplier"),
    [(1, 1, 3.7306), (4, 1, 1.0812), (8, 1, 0.6002), (1, 10, 11.797), (4, 10, 3.419), (8, 10, 1.898)],
)
def test_the_checked_noise_multipliers(eps: float, releases: int, multiplier: float) -> None:
    for adjacency, change in (("replace-one", 6.0), ("zero-out", 3.0)):
        found = sigma(epsilon=eps, clip=3.0, releases=releases, delta=1e-5, adjacency=adjacency)  # type: ignore[arg-type]  # a loop
        assert found / change == pytest.approx(multiplier, abs=0.5 * 10 ** -(4 if releases == 1 else 3))


@pytest.mark.parametrize(
    ("noise", "once", "once_2c", "ten", "ten_2c"),
    [
        (0.5, 9.997, 24.38, 46.21, 133.09),
        (1, 4.377, 9.997, 17.857, 46.211),
        (2, 1.993, 4.377, 7.511, 17.857),
        (5, 0.726, 1.555, 2.594, 5.759),
        (10, 0.341, 0.726, 1.199, 2.594),
    ],
)
def test_the_table_of_exact_epsilons(noise: float, once: float, once_2c: float, ten: float, ten_2c: float) -> None:
    def at(releases: int, adjacency: Adjacency) -> float:
        return epsilon(sigma=noise, clip=1, releases=releases, delta=1e-5, adjacency=adjacency)

    assert at(1, "zero-out") == pytest.approx(once, abs=6e-4)
    assert at(1, "replace-one") == pytest.approx(once_2c, abs=6e-3)
    assert at(10, "zero-out") == pytest.approx(ten, abs=6e-3)
    assert at(10, "replace-one") == pytest.approx(ten_2c, abs=6e-3)


@pytest.mark.parametrize("delta", [1e-100, 1e-12, 1e-5, 0.3, 0.9, 1 - 1e-9])
@pytest.mark.parametrize("mu", [1e-4, 0.1, 1.0, 10.0, 27.0, 40.0, 300.0])
def test_epsilon_solves_the_definition_at_every_size(mu: float, delta: float) -> None:
    eps = epsilon_of(mu, delta)
    if slow_delta(0, mu) <= delta:
        assert eps == 0.0
    else:
        # Near the far end of Opacus' window its e^epsilon Phi(-x) rounds at 1e-6 relative for a delta of 1e-100.
        assert slow_delta(eps, mu) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-3, 1.0, 30.0, 700.0])
@pytest.mark.parametrize("mu", [1e-3, 0.3, 3.0, 30.0, 100.0])
def test_delta_is_the_definition(eps: float, mu: float) -> None:
    slow = slow_delta(eps, mu)
    assert delta_of(eps, mu) == pytest.approx(slow, rel=1e-9, abs=1e-300)


def test_inside_its_window_the_number_is_opacus_own() -> None:
    assert epsilon(sigma=2, clip=1, releases=10, delta=1e-5) == eps_from_mu(mu=math.sqrt(10), delta=1e-5)


def test_where_opacus_raises_there_is_an_answer() -> None:
    assert delta_eps_mu(eps=0, mu=1e-6) < 1e-5
    with pytest.raises(ValueError, match="different signs"):
        eps_from_mu(mu=1e-6, delta=1e-5)
    assert epsilon(sigma=2e6, clip=1, delta=1e-5) == 0.0
    with pytest.raises(ValueError, match="different signs"):
        eps_from_mu(mu=math.sqrt(1000), delta=1e-5)
    assert epsilon(sigma=2, clip=1, releases=1000, delta=1e-5) == pytest.approx(633.93, abs=0.02)  # PRV says 633.947
    assert epsilon(sigma=0, clip=1, delta=1e-5) == math.inf
    assert epsilon(sigma=[3.0, 0.0], clip=1, delta=1e-5) == math.inf


def test_the_two_solvers_meet() -> None:
    """No jump where epsilon passes 500, nor where it leaves 0."""
    edge = 2 / sigma(epsilon=500, clip=1, delta=1e-5)
    below, above = (epsilon_of(edge * (1 + step), 1e-5) for step in (-1e-9, 1e-9))
    assert below < 500 < above
    assert above - below < 3e-6
    null = float(mpmath.findroot(lambda m: slow_delta(0, m) - 1e-5, 2.5e-5))
    assert epsilon_of(null * (1 - 1e-9), 1e-5) == 0.0
    assert 0 < epsilon_of(null * (1 + 1e-6), 1e-5) < 1e-10


@given(EPSILONS, DELTAS, COUNTS, st.floats(1e-3, 1e3), st.sampled_from(["replace-one", "zero-out"]))
def test_noise_and_epsilon_are_inverse_and_never_promise_too_much(
    eps: float, delta: float, releases: int, clip: float, adjacency: Adjacency
) -> None:
    noise = sigma(epsilon=eps, clip=clip, releases=releases, delta=delta, adjacency=adjacency)
    back = epsilon(sigma=noise, clip=clip, releases=releases, delta=delta, adjacency=adjacency)
    assert eps * (1 - 1e-7) <= back <= eps


@given(st.floats(-4, 12), st.floats(-100, -1e-6))
def test_noise_is_found_at_every_size(power: float, log_delta: float) -> None:
    eps, delta = 10.0**power, math.exp(log_delta)
    noise = sigma(epsilon=eps, clip=0.5, delta=delta)
    assert epsilon(sigma=noise, clip=0.5, delta=delta) <= eps
    assert epsilon(sigma=noise * (1 - 1e-6), clip=0.5, delta=delta) > eps


@given(SIGMAS, SIGMAS, DELTAS, DELTAS, COUNTS, COUNTS)
def test_more_noise_fewer_releases_and_a_larger_delta_never_cost_privacy(
    a: float, b: float, delta_a: float, delta_b: float, count_a: int, count_b: int
) -> None:
    weak = epsilon(sigma=min(a, b), clip=1, releases=max(count_a, count_b), delta=min(delta_a, delta_b))
    strong = epsilon(sigma=max(a, b), clip=1, releases=min(count_a, count_b), delta=max(delta_a, delta_b))
    assert strong <= weak * (1 + 1e-9)


@given(SIGMAS, st.integers(1, 50))
def test_a_sequence_of_equal_sigmas_is_that_many_releases(noise: float, releases: int) -> None:
    assert mu_of(sigma=[noise] * releases, clip=2) == pytest.approx(
        mu_of(sigma=noise, clip=2, releases=releases), rel=1e-12
    )


def test_different_sigmas_add_in_mu_squared() -> None:
    assert mu_of(sigma=[2.0, 1.0], clip=1) == pytest.approx(math.sqrt(1 + 4))
    assert compose_mu([3.0, 4.0]) == 5.0
    assert compose_mu([]) == 0.0
    assert epsilon(sigma=(2.0, 1.0), clip=1, delta=1e-5) == epsilon_of(math.sqrt(5), 1e-5)


def test_sensitivity_names_the_two_adjacencies() -> None:
    assert sensitivity(1.5) == 3.0
    assert sensitivity(1.5, "zero-out") == 1.5
    with pytest.raises(BadSetting, match=r"unknown adjacency 'replace_one'. Did you mean 'replace-one'"):
        sensitivity(1.5, "replace_one")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive and finite; got 0.0"),
        ({"epsilon": -1.0}, "epsilon must be positive"),
        ({"epsilon": math.inf}, "epsilon must be positive and finite"),
        ({"epsilon": math.nan}, "epsilon must be positive"),
        ({"epsilon": "8"}, "epsilon must be a number; got '8', a str"),
        ({"delta": 0.0}, "delta must lie strictly between 0 and 1; got 0.0"),
        ({"delta": 1.0}, "delta must lie strictly"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"clip": True}, "clip must be a number"),
        ({"releases": 0}, "releases must be a whole number of at least 1; got 0"),
        ({"releases": 2.5}, "releases must be a whole number"),
        ({"releases": math.inf}, "releases must be a whole number"),
        ({"adjacency": "zero"}, "Did you mean 'zero-out'"),
    ],
)
def test_bad_settings_are_named(bad: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"epsilon": 8.0, "clip": 1.0, "releases": 10, "delta": 1e-5}
    with pytest.raises(BadSetting, match=message):
        sigma(**{**good, **bad})  # type: ignore[arg-type]  # on purpose
    if "epsilon" not in bad:
        good.pop("epsilon")
        with pytest.raises(BadSetting, match=message):
            epsilon(**{"sigma": 2.0, **good, **bad})  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("noise", [-1.0, math.inf, math.nan, [1.0, -1.0]])
def test_a_bad_sigma_is_named(noise: float) -> None:
    with pytest.raises(BadSetting, match="sigma must be at least 0 and finite"):
        epsilon(sigma=noise, clip=1, delta=1e-5)


def test_a_sequence_leaves_no_doubt_about_the_count() -> None:
    with pytest.raises(BadSetting, match="one entry a release; got 2 of them and releases=5"):
        epsilon(sigma=[1.0, 2.0], clip=1, releases=5, delta=1e-5)
    with pytest.raises(BadSetting, match="empty sequence"):
        epsilon(sigma=[], clip=1, delta=1e-5)


def test_delta_at_its_limits() -> None:
    assert delta_of(0.0, 0.0) == 0.0
    assert delta_of(3.0, math.inf) == 1.0
    assert epsilon_of(0.0, 1e-5) == 0.0
    for bad in ((-1.0, 1.0), (1.0, -1.0), (math.nan, 1.0)):
        with pytest.raises(BadSetting, match="must be at least 0"):
            delta_of(*bad)


def test_the_verdict_speaks_above_50_only() -> None:
    assert verdict(50.0) is None
    assert verdict(math.nextafter(50, 51)) == "no meaningful guarantee"
    assert verdict(math.inf) == "no meaningful guarantee"
    with pytest.raises(BadSetting, match="at least 0"):
        verdict(math.nan)
