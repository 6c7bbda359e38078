# SPDX-License-Identifier: Apache-2.0
"""Rows are found by id, and a Data that breaks its own promises cannot be made."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from splitguard.data import Data, Rows
from splitguard.errors import BadSetting


def rows(*ids: int) -> Rows:
    return Rows(torch.tensor(ids).float()[:, None] / 100, torch.tensor(ids) % 2, torch.tensor(ids))


def make() -> Data:
    clients = (torch.tensor([5]), torch.tensor([7, 3]))
    return Data("toy", 2, rows(3, 5, 7), rows(1), rows(2, 4, 6), rows(9), torch.tensor([7]), clients)


def test_rows_come_in_the_order_asked_for() -> None:
    found = rows(8, 3, 5).of(torch.tensor([5, 8, 5]))
    assert found.ids.tolist() == [5, 8, 5]
    assert torch.equal(found.inputs[:, 0], torch.tensor([0.05, 0.08, 0.05]))


@pytest.mark.parametrize("absent", [1, 4, 9])
def test_an_absent_id_is_named(absent: int) -> None:
    with pytest.raises(KeyError, match=f"1 of 2 ids are not among these 3 rows; first: {absent}"):
        rows(8, 3, 5).of(torch.tensor([3, absent]))


def test_no_rows_hold_no_id_and_no_ids_find_no_rows() -> None:
    none = rows(3)[:0]
    assert len(none.of(torch.tensor([], dtype=torch.int64))) == 0
    assert len(rows(3, 4).of(torch.tensor([], dtype=torch.int64))) == 0
    with pytest.raises(KeyError, match="id 3 is not here"):
        none.of(torch.tensor([3]))


def test_lengths_must_agree() -> None:
    with pytest.raises(BadSetting, match="2 inputs, 1 labels and 2 ids"):
        Rows(torch.zeros(2, 3), torch.zeros(1).long(), torch.arange(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": rows(9, 3)}, "id 3 is in train and again in query"),
        ({"test": rows(1, 1)}, "id 1 is in test and again in test"),
        ({"members": torch.tensor([7, 2])}, r"not in train: \[2\], of 2"),
        ({"members": torch.tensor([7, 7])}, "distinct training rows"),
        ({"clients": (torch.tensor([5]), torch.tensor([7]))}, "hold 2 rows, 2 different ones, and train has 3"),
        ({"clients": (torch.tensor([5, 3]), torch.tensor([7, 3]))}, "hold 4 rows, 3 different ones, and train has 3"),
        ({"clients": ()}, "hold 0 rows"),
        ({"clients": (torch.tensor([5, 7, 3]), torch.tensor([]).long())}, "client 1 holds no training row"),
        ({"classes": 1}, r"labels of train must lie in 0\.\.0; got 1\.\.1"),
    ],
)
def test_a_broken_promise_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        dataclasses.replace(make(), **change)  # type: ignore[arg-type]  # the fields are of several types


def test_the_prior_counts_auxiliary_rows_only_and_is_missing_without_them() -> None:
    data = make()
    assert torch.equal(data.classes_prior, torch.tensor([1.0, 0.0], dtype=torch.float64))
    unknown = dataclasses.replace(data, aux=rows(2)[:0]).classes_prior
    assert unknown.shape == (2,)
    assert unknown.isnan().all()


def test_it_says_what_it_holds() -> None:
    assert str(dataclasses.replace(make(), digest="ab")) == (
        "toy [ab]: 2 classes, 1, train 3, test 1, aux 3, query 1, members 1, 2 clients (iid)"
    )
