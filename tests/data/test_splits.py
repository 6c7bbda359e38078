# SPDX-License-Identifier: Apache-2.0
"""The parts of a draw share no image, keep the balance of the classes, and depend on nothing that they should not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from splitguard.data import Data, Pool, Rows, draw, open_pool
from splitguard.data.splits import quotas
from splitguard.errors import BadSetting

FACES = open_pool("faces")


def pool(rows: int = 120, classes: int = 4, test: int = 0, seed: int = 0, **more: Any) -> Pool:
    """Images that are all different, in uneven classes, sorted by class as folders are."""
    gen = torch.Generator().manual_seed(seed)
    labels = (torch.rand(rows + test, generator=gen) ** 2 * classes).long()
    labels[:classes] = torch.arange(classes)
    inputs = torch.rand(rows + test, 1, 2, 2, generator=gen)
    official = (inputs[rows:], labels[rows:]) if test else (None, None)
    return Pool("toy", inputs[:rows], labels[:rows].sort().values, *official, **more)


def places(data: Data, source: Pool) -> dict[str, list[int]]:
    """For each part the rows of the pool it holds, found by their pixels; official test rows come after the others."""
    both = [source.inputs, *([] if source.test_inputs is None else [source.test_inputs])]
    where = {tuple(row.tolist()): index for index, row in enumerate(torch.cat(both).flatten(1))}
    return {part: [where[tuple(row.tolist())] for row in rows.inputs.flatten(1)] for part, rows in data.parts.items()}


def same(left: Rows, right: Rows) -> bool:
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in ("ids", "labels", "inputs"))


@st.composite
def requests(draw_: st.DrawFn) -> tuple[Pool, dict[str, Any]]:
    classes = draw_(st.integers(2, 5))
    rows, test = draw_(st.integers(20, 150)), draw_(st.sampled_from([0, 25]))
    victim = draw_(st.sampled_from([None, 0, classes - 1]))
    source = pool(rows, classes, test, draw_(st.integers(0, 9)), victim_class=victim)
    exposed = rows if victim is None else int((source.labels == victim).sum())
    query = draw_(st.integers(0, max(0, exposed // 3)))
    want = {
        "clients": draw_(st.integers(1, 4)),
        "train": draw_(st.integers(4, rows // 2)),
        "test": draw_(st.integers(1, rows // 8)),
        "aux": draw_(st.integers(0, rows // 8)),
        "victims": {"member": draw_(st.integers(0, 2)), "query": min(query, rows // 8)},
        "partition": draw_(
            st.sampled_from(["iid", {"dirichlet": {"alpha": 5, "minimum": 1}}, {"shards": {"per_client": 1}}])
        ),
        "seed": draw_(st.integers(0, 2**31)),
    }
    return source, want


@settings(max_examples=150)
@given(requests())
def test_no_image_is_in_two_parts_and_every_label_is_its_own(request: tuple[Pool, dict[str, Any]]) -> None:
    source, want = request
    try:
        data = draw(source, **want)
    except BadSetting as error:
        if "Lower" in str(error) or "in 10000 draws" in str(error):
            return
        raise
    found = places(data, source)
    everywhere = [row for rows in found.values() for row in rows]
    assert len(set(everywhere)) == len(everywhere)
    labels = torch.cat([source.labels, *([] if source.test_labels is None else [source.test_labels])])
    ids: list[int] = []
    for part, rows in data.parts.items():
        assert torch.equal(rows.labels, labels[torch.tensor(found[part], dtype=torch.int64)])
        ids += rows.ids.tolist()
        official = part == "test" and source.test_labels is not None
        assert all((row >= len(source)) == official for row in found[part])
    assert len(set(ids)) == len(ids)
    assert {part: len(rows) for part, rows in data.parts.items()} == {
        "train": want["train"], "test": want["test"], "aux": want["aux"], "query": want["victims"]["query"],
    }  # fmt: skip
    members = data.train.of(data.members)
    assert len(members) == want["victims"]["member"]
    assert torch.equal(torch.cat(data.clients).sort().values, data.train.ids)
    if source.victim_class is not None:
        assert (members.labels == source.victim_class).all()
        assert (data.query.labels == source.victim_class).all()


@given(st.integers(0, 300), st.lists(st.integers(0, 80), min_size=1, max_size=8), st.integers(0, 99))
def test_quotas_are_the_nearest_whole_numbers_that_fit(size: int, room: list[int], seed: int) -> None:
    size = min(size, sum(room))
    shares = np.array(room, dtype=float) / max(sum(room), 1)
    counts = quotas(size, shares, np.array(room), np.random.default_rng(seed))
    assert counts.sum() == size
    assert (counts <= room).all()
    # Shares of the room itself never overflow, so Hamilton's bound holds: less than one row off.
    assert (np.abs(counts - size * shares) < 1 + 1e-6).all()


def test_a_class_without_room_hands_its_rows_to_the_others() -> None:
    gen = np.random.default_rng(0)
    assert quotas(12, np.array([0.5, 0.25, 0.25]), np.array([2, 20, 20]), gen).tolist() == [2, 5, 5]
    assert quotas(4, np.array([0.0, 1.0]), np.array([9, 4]), gen).tolist() == [0, 4]


def test_ties_are_broken_by_lot() -> None:
    counts = sum(quotas(1, np.ones(4) / 4, np.full(4, 9), np.random.default_rng(seed)) for seed in range(400))
    # Binomial(400, 1/4): four standard errors are 35.
    assert (np.abs(np.asarray(counts) - 100) < 35).all()


def test_every_part_has_the_shares_of_the_pool() -> None:
    source = pool(rows=3000, classes=5, test=400)
    shares = torch.bincount(source.labels) / len(source)
    data = draw(source, train=1501, test=97, aux=333, victims={"member": 41, "query": 53})
    assert source.test_labels is not None
    official = torch.bincount(source.test_labels) / len(source.test_labels)
    parts = {**data.parts, "members": data.train.of(data.members)}
    for part, rows in parts.items():
        wanted = len(rows) * (official if part == "test" else shares)
        assert (torch.bincount(rows.labels, minlength=5) - wanted).abs().max() < 1, part


def test_faces_by_default_are_balanced_and_use_every_face() -> None:
    data = draw(FACES)
    counts = {part: torch.bincount(rows.labels, minlength=2).tolist() for part, rows in data.parts.items()}
    assert counts == {"train": [44, 44], "test": [20, 20], "aux": [20, 20], "query": [0, 16]}
    assert data.train.of(data.members).labels.tolist() == [1] * 16
    asked = draw(FACES, train=100, test=40, aux=40)
    shares = [float(rows.labels.double().mean()) for part, rows in asked.parts.items() if part != "query"]
    assert max(shares) - min(shares) < 0.03, "84 faces are left; all three parts go without the 16 in equal measure"


def test_exact_copies_are_never_drawn() -> None:
    base = pool(rows=100, test=20)
    assert base.test_inputs is not None
    images = torch.cat([base.inputs, base.inputs[:30], base.inputs[:30]])
    labels = torch.cat([base.labels, base.labels[:30], base.labels[:30]])
    source = Pool("toy", images, labels, torch.cat([base.test_inputs, base.inputs[50:55]]), torch.zeros(25).long())
    data = draw(source, train=60, aux=30, test=20, victims={"member": 5, "query": 10})
    images = torch.cat([rows.inputs for rows in data.parts.values()]).flatten(1)
    assert len(torch.unique(images, dim=0)) == len(images) == 120
    with pytest.raises(BadSetting, match=r"there are 100 training rows \(65 exact copies of other images left out\)"):
        draw(source, train=100, aux=30, victims={"member": 5, "query": 10})
    with pytest.raises(BadSetting, match="test 21; there are 20 official test rows"):
        draw(source, test=21, aux=5, victims={"query": 1})


def test_the_seed_decides_and_nothing_else(rng_untouched: Callable[[], AbstractContextManager[None]]) -> None:
    with rng_untouched():
        first = draw(FACES, clients=3, seed=5)
    torch.manual_seed(1)
    again, other = draw(FACES, clients=3, seed=5), draw(FACES, clients=3, seed=6)
    assert all(same(first.parts[part], again.parts[part]) for part in first.parts)
    assert all(map(torch.equal, first.clients, again.clients))
    assert first.digest == again.digest != other.digest
    for part in ("train", "test", "aux", "query"):
        assert set(places(first, FACES)[part]) != set(places(other, FACES)[part])


@pytest.mark.parametrize(
    ("change", "alike"),
    [
        ({"clients": 4, "partition": {"shards": {}}}, {"train", "test", "query", "aux", "members"}),
        ({"aux": 60}, {"train", "test", "query", "members"}),
        ({"aux_classes": [0, 2]}, {"train", "test", "query", "members"}),
        ({"train": 150}, {"test", "query", "aux", "members"}),
        ({"victims": {"member": 20, "query": 8}}, {"train", "test", "query", "aux"}),
        ({"victims": {"member": 8, "query": 20}}, {"train", "test", "members"}),
    ],
)
def test_a_setting_moves_its_own_rows_only(change: dict[str, Any], alike: set[str]) -> None:
    source = pool(rows=600)
    base: dict[str, Any] = {"train": 100, "test": 30, "aux": 30, "victims": {"member": 8, "query": 8}}
    left, right = draw(source, **base), draw(source, **{**base, **change})
    parts = {name: same(left.parts[name], right.parts[name]) for name in left.parts}
    parts["members"] = torch.equal(left.members, right.members)
    assert {name for name, equal in parts.items() if equal} == alike
    assert left.digest != right.digest


def test_parts_grow_by_adding() -> None:
    source = pool(rows=2000)
    small, large = draw(source, train=200, aux=50), draw(source, train=400, aux=100)
    assert torch.isin(small.train.ids, large.train.ids).all()
    assert torch.isin(small.aux.ids, large.aux.ids).all()


def test_the_attacker_may_lack_classes() -> None:
    data = draw(pool(rows=600), train=300, test=50, aux=60, aux_classes=[1, 3])
    assert set(data.aux.labels.tolist()) == {1, 3}
    assert set(data.train.labels.tolist()) == {0, 1, 2, 3}


def test_member_victims_are_spread_over_the_clients() -> None:
    data = draw(FACES, clients=5)
    held = [int(torch.isin(ids, data.members).sum()) for ids in data.clients]
    assert sorted(held) == [3, 3, 3, 3, 4]


def test_neither_ids_nor_order_tell_the_class() -> None:
    # The pool is sorted by class. Were ids its row numbers, the rank test would find it at once.
    data = draw(pool(rows=2000, classes=2), train=1000)
    for numbers in (data.train.ids, torch.arange(1000)):
        zero, one = (numbers[data.train.labels == k].numpy() for k in (0, 1))
        assert stats.mannwhitneyu(zero, one).pvalue > 0.01
    victims = torch.isin(data.train.ids, data.members).numpy()
    order = np.arange(1000)
    assert stats.mannwhitneyu(order[victims], order[~victims]).pvalue > 0.01


def test_member_and_query_victims_are_exchangeable() -> None:
    # Over many seeds a row of the pool is as often a member as it is a query: both are uniform over the same rows.
    source = pool(rows=60, classes=2)
    times = np.zeros((2, 60))
    for seed in range(300):
        data = draw(source, train=20, test=10, aux=10, victims={"member": 10, "query": 10}, seed=seed)
        found = places(data, source)
        times[0, np.array(found["train"])[torch.isin(data.train.ids, data.members).numpy()]] += 1
        times[1, found["query"]] += 1
    for kind in times:  # 300 x 10 / 60 = 50 expected; without replacement the chi-square is a little smaller still
        assert stats.chisquare(kind).pvalue > 0.01


def test_the_digest_is_pinned() -> None:
    # Whoever changes what is drawn from a seed changes every stored result: say so in the changelog, then pin anew.
    assert draw(FACES, clients=2, seed=7).digest == "e9c765c3ee3c40fd"


def test_the_digest_knows_pixels_and_labels() -> None:
    source = pool(rows=40, classes=2)
    images, labels = source.inputs.clone(), source.labels.clone()
    images[:, 0, 0, 0] *= 1 - 2**-20
    labels[:] = 1 - labels
    plain = draw(source).digest
    assert draw(Pool("toy", images, source.labels)).digest != plain
    assert draw(Pool("toy", source.inputs, labels)).digest != plain
    assert draw(Pool("another name", source.inputs, source.labels)).digest == plain
