# SPDX-License-Identifier: Apache-2.0
"""The exact numbers lie where an independent accountant says they must."""

from __future__ import annotations

import numpy as np
import pytest

from splitguard.errors import BadSetting, NotSupported
from splitguard.privacy import Adjacency, epsilon, epsilon_prv, sigma, sigma_prv


def between(exact: float, prv: float) -> bool:
    """exact <= PRV <= exact + 2 eps_error, with the eps_error that is in use there."""
    return exact <= prv <= exact + 2 * min(0.01, 0.01 * exact)


@pytest.mark.parametrize("adjacency", ["replace-one", "zero-out"])
@pytest.mark.parametrize(
    ("noise", "releases", "delta"),
    [
        (0.5, 1, 1e-5),
        (7.4612, 1, 1e-5),
        (2, 10, 1e-5),
        (23.594, 10, 1e-5),
        (9, 100, 1e-5),
        (50, 1, 1e-9),
        (60, 900, 1e-3),
    ],
)
def test_exact_is_at_most_prv_and_prv_at_most_two_errors_above(
    noise: float, releases: int, delta: float, adjacency: Adjacency
) -> None:
    exact = epsilon(sigma=noise, clip=1, releases=releases, delta=delta, adjacency=adjacency)
    prv = epsilon_prv(sigma=noise, clip=1, releases=releases, delta=delta, adjacency=adjacency)
    assert between(exact, prv)


def holds_at(eps: float, releases: int, delta: float) -> bool:
    """The statement for the noise that ``eps`` asks for."""
    spent = {"sigma": sigma(epsilon=eps, clip=1, releases=releases, delta=delta), "clip": 1, "delta": delta}
    exact = epsilon(**spent, releases=releases)  # type: ignore[arg-type]  # floats all
    assert exact == pytest.approx(eps, rel=1e-7)
    return between(exact, epsilon_prv(**spent, releases=releases))  # type: ignore[arg-type]


@pytest.mark.parametrize("eps", [0.1, 0.5, 1.0, 2.0, 8.0, 50.0, 100.0])
@pytest.mark.parametrize(("releases", "delta"), [(1, 1e-5), (4, 1e-9), (4, 1e-3)])
def test_the_same_from_small_to_large_epsilon(eps: float, releases: int, delta: float) -> None:
    assert holds_at(eps, releases, delta)


@pytest.mark.slow
@pytest.mark.parametrize(("eps", "releases"), [(0.1, 10_000), (1.0, 10_000), (50.0, 10_000), (450.0, 3), (499.9, 1)])
@pytest.mark.parametrize("delta", [1e-9, 1e-3])
def test_the_same_at_the_ends_of_the_range(eps: float, releases: int, delta: float) -> None:
    assert holds_at(eps, releases, delta)


def test_different_sigmas_compose_alike() -> None:
    noises = [2.0, 3.0, 7.0]
    assert between(epsilon(sigma=noises, clip=1, delta=1e-5), epsilon_prv(sigma=noises, clip=1, delta=1e-5))


@pytest.mark.parametrize(("eps", "releases"), [(8.0, 10), (0.5, 1)])
def test_the_noise_it_asks_for_is_a_little_more(eps: float, releases: int) -> None:
    least = sigma(epsilon=eps, clip=1, releases=releases, delta=1e-5)
    safe = sigma_prv(epsilon=eps, clip=1, releases=releases, delta=1e-5)
    assert least < safe <= sigma(epsilon=eps - 2 * min(0.01, 0.01 * eps), clip=1, releases=releases, delta=1e-5)
    error = min(0.01, 0.01 * eps)
    assert epsilon_prv(sigma=safe, clip=1, releases=releases, delta=1e-5, eps_error=error) <= eps
    assert epsilon_prv(sigma=safe / 1.0002, clip=1, releases=releases, delta=1e-5, eps_error=error) > eps


def test_where_there_is_nothing_to_compare_it_refuses() -> None:
    for noise, shown in ((2e6, "this is 0"), (0.02, "this is 5"), (0.0, "this is inf")):
        with pytest.raises(NotSupported, match=shown):
            epsilon_prv(sigma=noise, clip=1, delta=1e-5)
    with pytest.raises(BadSetting, match="eps_error must be positive"):
        epsilon_prv(sigma=2, clip=1, delta=1e-5, eps_error=0)


def test_numpy_keeps_its_settings() -> None:
    before = np.geterr()
    epsilon_prv(sigma=2, clip=1, delta=1e-5)
    assert np.geterr() == before
