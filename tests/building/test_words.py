# SPDX-License-Identifier: Apache-2.0
"""Words are the means of clusters, as many as were asked for, and never one that stands for no row."""

from __future__ import annotations

import pytest
import torch

from splitguard.building.words import Book
from splitguard.errors import BadSetting
from tests.attacks.views import gen

EYE = torch.eye(3, dtype=torch.float64)


def test_words_are_the_means_of_the_clusters() -> None:
    centres = 10 * EYE
    rows = centres.repeat_interleave(5, 0) + 0.01 * torch.randn(15, 3, generator=gen(), dtype=torch.float64)
    book = Book.of(rows, EYE, 3)
    assert torch.equal(book.nearest(rows), book.nearest(centres).repeat_interleave(5))
    torch.testing.assert_close(book.words[book.nearest(centres)], rows.view(3, 5, 3).mean(1))


def test_rows_that_coincide_make_as_many_words_as_differ() -> None:
    rows = (5 * EYE[:2]).repeat(5, 1)
    assert sorted(Book.of(rows, EYE, 2).words.tolist()) == [[0, 5, 0], [5, 0, 0]]
    with pytest.raises(BadSetting, match="2 distinct rows among 10 make no 4 words"):
        Book.of(rows, EYE, 4)
    with pytest.raises(BadSetting, match="1 distinct rows among 10 make no 4 words"):
        Book.of(torch.full((10, 3), 5.0, dtype=torch.float64), EYE, 4)


def test_rows_are_told_apart_in_the_coordinates_alone() -> None:
    with pytest.raises(BadSetting, match="1 distinct rows among 3"):
        Book.of(EYE, torch.ones(3, 1, dtype=torch.float64), 2)
