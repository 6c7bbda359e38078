# SPDX-License-Identifier: Apache-2.0
"""Sizes have the documented defaults, and what does not fit is refused with the numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from splitguard.data import Pool, draw, open_pool, sizes
from splitguard.errors import BadSetting, UnknownName

FACES = open_pool("faces")


def test_defaults_by_size() -> None:
    big = Pool("big", torch.arange(40_000.0)[:, None], torch.arange(40_000) % 2)
    assert dataclasses.astuple(sizes(big)) == (20_000, 2000, 2000, 64, 64)
    official = Pool("official", big.inputs, big.labels, big.inputs[:500], big.labels[:500])
    assert dataclasses.astuple(sizes(official)) == (20_000, 500, 2000, 64, 64)
    small = Pool("small", big.inputs[:60], big.labels[:60])
    assert dataclasses.astuple(sizes(small)) == (31, 12, 12, 5, 5)
    assert dataclasses.astuple(sizes(small, train=4)) == (4, 12, 12, 2, 5), "half of the training rows are no victims"
    assert sizes(small, victims={"member": 9}).query == 5


@pytest.mark.parametrize(
    ("want", "message"),
    [
        ({"train": 190}, r"train 190 \+ test 40 \+ aux 40 \+ query 16 = 286 rows; there are 200 training rows"),
        ({"victims": {"member": 64, "query": 64}}, r"train 64 \+ test 40 \+ aux 40 \+ query 64 = 208 rows"),
        (
            {"train": 60, "test": 10, "aux": 10, "victims": {"query": 101}},
            r"query 101; 100 rows of its classes \(face\)",
        ),
        ({"train": 10, "victims": {"member": 9}}, r"victims: member 9; 5 rows of its classes \(face\) are left"),
        ({"train": 10, "victims": {"member": 11}}, "member 11 do not fit into train 10"),
        ({"aux": 30, "aux_classes": [1], "train": 110}, r"aux 30; \d+ rows of its classes \(face\) are left"),
        ({"aux_classes": [2]}, r"aux_classes must lie in 0\.\.1; got 2"),
        ({"train": 0}, "train must be a whole number of 1 or more; got 0"),
        ({"test": 2.5}, "test must be a whole number of 1 or more; got 2.5"),
        ({"aux": True}, "aux must be a whole number of 0 or more; got True"),
        ({"clients": 0}, "clients must be a whole number of 1 or more"),
        ({"clients": 89}, r"clients must lie in 1\.\.88, the number of training rows; got 89"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_the_numbers(want: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        draw(FACES, **want)


def test_kinds_of_victims_are_checked() -> None:
    with pytest.raises(UnknownName, match=r"unknown kind of victims 'members'\. Did you mean 'member'"):
        draw(FACES, victims={"members": 3})
