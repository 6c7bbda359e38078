# SPDX-License-Identifier: Apache-2.0
"""Numbers become text without losing a sign, a digit or the difference between nothing and zero."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitguard.reports import words

PREFIX = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


def test_nothing_is_a_dash_and_zero_is_zero() -> None:
    for write in (words.decimal, words.percent, words.points, words.scaled, words.count):
        assert write(None) == words.MISSING
        assert write(0.0).startswith("0")
    assert words.bracket(None, 0.5) == words.bracket(0.5, None) == ""


def test_a_negative_number_keeps_its_sign_unless_it_rounds_to_zero() -> None:
    assert words.decimal(-0.03) == "\N{MINUS SIGN}0.03"
    assert words.decimal(-0.001) == "0.00"
    assert words.percent(-0.125).split() == ["\N{MINUS SIGN}12.5", "%"]


@given(st.floats(1, 1e17))
def test_a_scaled_number_is_right_to_three_digits(value: float) -> None:
    number, *prefix = words.scaled(value).split()
    assert float(number) * PREFIX["".join(prefix)] == pytest.approx(value, rel=0.005 + 1e-9)
    assert len(number.replace(".", "")) <= 4  # 1000 only where three digits round up to it


@given(st.sets(st.integers(1, 60)))
def test_a_list_of_numbers_can_be_read_back(values: set[int]) -> None:
    read: set[int] = set()
    for part in filter(None, words.numbers(values).split(", ")):
        first, _, last = part.replace("#", "").partition(" to ")
        read |= set(range(int(first), int(last or first) + 1))
    assert read == values


@pytest.mark.parametrize(
    ("epsilons", "text", "scope"),
    [
        ((None, None, None), words.MISSING, ""),
        ((8.0, 8.0, 2.0), "ε = 8", "the whole view"),
        ((None, 8.0, 2.0), "ε = 8", "own messages only"),
        ((None, None, 2.0), "ε = 2", "one query only"),
        ((None, 50.0, None), "ε = 50", "own messages only"),
        ((None, 50.1, None), "no meaningful guarantee", "ε = 50.1, own messages only"),
        ((0.0, 0.0, None), "ε = 0", "the whole view"),
    ],
)
def test_an_epsilon_says_what_it_covers(
    epsilons: tuple[float | None, float | None, float | None], text: str, scope: str
) -> None:
    found = [part.replace(words.FIXED, " ") for part in words.epsilon_words(*epsilons)]
    assert found == [text, scope]


def test_lists_read_like_sentences() -> None:
    assert words.joined([]) == ""
    assert words.joined(["a"]) == "a"
    assert words.joined(["a", "b", "c"], last="or") == "a, b or c"
    assert (words.plural(1, "seed"), words.plural(0, "seed"), words.plural(2, "query", "queries")) == (
        "1 seed",
        "0 seeds",
        "2 queries",
    )
