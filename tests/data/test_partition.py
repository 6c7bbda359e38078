# SPDX-License-Identifier: Apache-2.0
"""Every row is dealt once, and the Dirichlet partition is a Dirichlet partition."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from splitguard.data import PARTITIONS, Partition, partition
from splitguard.data.partition import canonical
from splitguard.errors import BadSetting, UnknownName

BALANCED = torch.arange(10).repeat_interleave(100)  # 10 classes of 100 rows


def histogram(labels: torch.Tensor, dealt: tuple[torch.Tensor, ...]) -> np.ndarray[Any, Any]:
    """(clients, K) rows of each class at each client."""
    classes = int(labels.max()) + 1
    return np.stack([torch.bincount(labels[rows], minlength=classes).numpy() for rows in dealt])


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, Any, int, int, torch.Tensor]:
    labels = torch.tensor(draw(st.lists(st.integers(0, 4), min_size=1, max_size=80)))
    clients = draw(st.integers(1, min(6, len(labels))))
    shards = draw(st.integers(1, max(1, len(labels) // clients)))
    alpha = draw(st.floats(1, 1e3))  # with a tiny alpha there may be no partition, which is another test
    how = draw(
        st.sampled_from(["iid", {"dirichlet": {"alpha": alpha, "minimum": 1}}, {"shards": {"per_client": shards}}])
    )
    victims = draw(st.lists(st.integers(0, len(labels) - 1), unique=True, max_size=10))
    return labels, how, clients, draw(st.integers(0, 2**40)), torch.tensor(victims, dtype=torch.int64)


@given(cases())
def test_every_row_is_dealt_once_and_nobody_goes_empty(
    case: tuple[torch.Tensor, Any, int, int, torch.Tensor],
) -> None:
    labels, how, clients, seed, victims = case
    try:
        dealt = partition(labels, how, clients, seed, victims)
    except BadSetting as error:
        if "dirichlet" in how and "in 10000 draws" in str(error):
            return  # a few rows over many clients: no draw may leave everyone one
        raise
    assert len(dealt) == clients
    assert torch.equal(torch.cat(dealt).sort().values, torch.arange(len(labels)))
    assert all(len(rows) >= 1 for rows in dealt)
    assert all(torch.equal(rows, rows.sort().values) for rows in dealt)


@given(st.integers(1, 60), st.data())
def test_iid_spreads_rows_and_victims_evenly(rows: int, data: st.DataObject) -> None:
    clients = data.draw(st.integers(1, rows))
    victims = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), unique=True)), dtype=torch.int64)
    dealt = partition(torch.zeros(rows).long(), "iid", clients, 0, victims)
    held = [int(torch.isin(positions, victims).sum()) for positions in dealt]
    sizes = [len(positions) for positions in dealt]
    assert max(held) - min(held) <= 1
    assert max(sizes) - min(sizes) <= 1


def test_a_large_alpha_gives_everyone_the_same_share_of_every_class() -> None:
    counts = histogram(BALANCED, partition(BALANCED, {"dirichlet": {"alpha": 1e12}}, 4, seed=0))
    assert np.array_equal(counts, np.full((4, 10), 25))


def test_a_tiny_alpha_gives_every_class_to_one_client() -> None:
    counts = histogram(BALANCED, partition(BALANCED, {"dirichlet": {"alpha": 1e-6}}, 3, seed=0))
    assert ((counts == 100).sum(0) == 1).all()


def test_shares_follow_the_dirichlet_law() -> None:
    # With one class the share of one of C clients is Beta(alpha, (C - 1) alpha); N is large, so that rounding and the
    # minimum of one row (probability about 1e-5 at alpha 2) do not show in 400 draws.
    labels, alpha, clients = torch.zeros(20_000).long(), 2.0, 3
    how = {"dirichlet": {"alpha": alpha, "minimum": 1}}
    shares = [len(partition(labels, how, clients, seed)[0]) / 20_000 for seed in range(400)]
    assert stats.kstest(shares, stats.beta(alpha, (clients - 1) * alpha).cdf).pvalue > 0.01
    wrong = stats.kstest(shares, stats.beta(2 * alpha, 2 * (clients - 1) * alpha).cdf).pvalue
    assert wrong < 1e-4, "the test must tell alpha from twice alpha"


def test_skew_falls_with_alpha() -> None:
    def skew(alpha: float) -> float:
        """Mean over seeds of the largest class share at a client, averaged over clients; 0.1 is none."""
        found = []
        for seed in range(20):
            counts = histogram(BALANCED, partition(BALANCED, {"dirichlet": {"alpha": alpha}}, 5, seed))
            found.append((counts.max(1) / counts.sum(1)).mean())
        return float(np.mean(found))

    skews = [skew(alpha) for alpha in (0.1, 0.3, 1, 10, 1000)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.4
    assert skews[-1] < 0.12


def test_no_client_gets_less_than_the_minimum() -> None:
    how = {"dirichlet": {"alpha": 0.1, "minimum": 60}}
    smallest = min(len(rows) for seed in range(30) for rows in partition(BALANCED, how, 5, seed))
    assert 60 <= smallest < 100, "redrawn until it fits, not evened out"


def test_shards_hold_few_classes_and_no_row_is_cut_off() -> None:
    counts = histogram(BALANCED, partition(BALANCED, {"shards": {"per_client": 2}}, 5, seed=0))
    assert (counts.sum(1) == 200).all()
    assert ((counts > 0).sum(1) == 2).all(), "shards as large as a class: two classes a client"
    odd = partition(BALANCED[:997], {"shards": {"per_client": 3}}, 7, seed=0)
    assert sum(map(len, odd)) == 997
    assert max(map(len, odd)) - min(map(len, odd)) <= 3, "each of the three shards is larger by one row at most"


@pytest.mark.parametrize("how", ["iid", {"dirichlet": {"alpha": 0.5}}, "shards"])
def test_the_seed_decides_and_nothing_else(how: Any, rng_untouched: Callable[[], AbstractContextManager[None]]) -> None:
    with rng_untouched():
        first = partition(BALANCED, how, 4, seed=3)
    torch.manual_seed(99)
    again, other = partition(BALANCED, how, 4, seed=3), partition(BALANCED, how, 4, seed=4)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


@pytest.mark.parametrize(
    ("how", "clients", "error", "message"),
    [
        ("iid", 1001, BadSetting, r"clients must lie in 1\.\.1000, the number of training rows; got 1001"),
        ("iid", 0, BadSetting, "got 0"),
        ({"dirichlet": {"alpha": 0.5}}, 101, BadSetting, "need 1010 rows; there are 1000"),
        (
            {"dirichlet": {"alpha": 1e-6}},
            20,
            BadSetting,
            "10 classes: in 10000 draws the smallest client had at most 0",
        ),
        ({"dirichlet": {"alpha": 0}}, 2, BadSetting, r"alpha must lie in \[1e-6, 1e12\]; got 0"),
        ({"dirichlet": {"alpha": float("nan")}}, 2, BadSetting, "got nan"),
        ({"dirichlet": {"alpha": 1, "minimum": 0}}, 2, BadSetting, "minimum must be 1 row or more"),
        ({"dirichlet": {}}, 2, BadSetting, "needs the setting 'alpha'"),
        ({"shards": {"per_client": 600}}, 2, BadSetting, "need 1200 rows or more; there are 1000"),
        ({"shards": {"per_client": 0}}, 2, BadSetting, "per_client must be 1 or more"),
        ({"dirichlet": {"aplha": 1}}, 2, UnknownName, "Did you mean 'alpha'"),
        ("non-iid", 2, UnknownName, "Did you mean 'iid'"),
    ],
)
def test_what_cannot_be_dealt_is_refused(how: Any, clients: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        partition(BALANCED, how, clients, seed=0)


def test_a_plug_in_that_loses_rows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Truncating(Partition):
        """Cuts every client to the smallest, as a benchmark did whose results could not be repeated."""

        name = "truncating"

        def deal(self, labels: Any, clients: int, victims: Any, gen: Any) -> list[Any]:
            return [np.arange(len(labels) // clients) + i * (len(labels) // clients) for i in range(clients)]

    monkeypatch.setitem(PARTITIONS._found, "truncating", Truncating)
    assert len(partition(BALANCED, "truncating", 4, seed=0)) == 4
    with pytest.raises(BadSetting, match="lost rows or dealt some twice"):
        partition(BALANCED, "truncating", 3, seed=0)


def test_the_written_form_has_every_setting() -> None:
    assert canonical("iid") == canonical({"iid": None}) == "iid"
    assert canonical({"dirichlet": {"alpha": 1}}) == {"dirichlet": {"alpha": 1.0, "minimum": 10}}
    assert str(PARTITIONS.build({"dirichlet": {"alpha": 0.3}})) == "dirichlet(0.3)"
    assert str(PARTITIONS.build("shards")) == "shards(2)"
