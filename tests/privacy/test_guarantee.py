# SPDX-License-Identifier: Apache-2.0
"""A guarantee says all that its epsilon means nothing without, and no more."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitguard.errors import BadSetting, UnknownName
from splitguard.privacy import Guarantee, compose

TRAINED = "the head is trained on raw rows"


def guarantee(**changes: Any) -> Guarantee:
    """Ten releases at epsilon 8 with a frozen head."""
    settings: dict[str, Any] = {
        "channel": "inputs",
        "epsilon_rows": 8.0,
        "epsilon": 8.0,
        "epsilon_query": 2.0,
        "delta": 1e-5,
        "adjacency": "replace-one",
        "sensitivity": 2.0,
        "T": 10,
        "adversary": "the server",
        "mechanism": "a clip to L2 norm 1 and Gaussian noise of standard deviation 3.8",
    }
    return Guarantee(**{**settings, **changes})


STATED = st.none() | st.floats(0, 500)


@st.composite
def guarantees(draw: st.DrawFn) -> Guarantee:
    rows, extra, query = draw(STATED), draw(STATED), draw(STATED)
    return guarantee(
        channel=draw(st.sampled_from(["inputs", "labels", "head-weights"])),
        adjacency=draw(st.sampled_from(["replace-one", "zero-out"])),
        epsilon_rows=rows,
        epsilon=None if rows is None or extra is None else rows + extra,
        epsilon_query=query,
        delta=draw(st.sampled_from([0.0, 1e-6, 1e-5])),
        sensitivity=draw(st.none() | st.floats(0.1, 9)),
        T=draw(st.integers(1, 99)),
        exclusions=(TRAINED,),
    )


def test_the_sentence_for_a_frozen_head() -> None:
    assert str(guarantee()) == (
        "Each client input is protected by (8, 1e-05)-DP (replace-one adjacency, L2 sensitivity 2) against the server "
        "that observes all T=10 releases of it and everything else in its view; one query is protected by "
        "(2, 1e-05)-DP; the mechanism is a clip to L2 norm 1 and Gaussian noise of standard deviation 3.8; nothing is "
        "gained from subsampling, as whose message it is can be seen."
    )


def test_the_sentence_for_a_trained_head_says_why_the_view_has_no_epsilon() -> None:
    text = str(guarantee(epsilon=None, exclusions=(TRAINED, "labels are sent in clear")))
    assert "observes all T=10 releases of it and nothing else;" in text
    assert "everything else" not in text
    assert text.endswith(
        f"no epsilon is stated for the adversary's whole view: {TRAINED}, and labels are sent in clear."
    )


def test_over_50_it_is_not_called_protection() -> None:
    text = str(guarantee(epsilon=133.09, epsilon_rows=133.09, epsilon_query=50.0))
    assert "Each client input has no meaningful guarantee, only (133.1, 1e-05)-DP" in text
    assert "one query is protected by (50, 1e-05)-DP" in text
    assert "no meaningful guarantee" not in str(guarantee(epsilon=50.0, epsilon_rows=50.0))


def test_other_forms_of_the_sentence() -> None:
    once = guarantee(
        channel="labels",
        T=1,
        delta=0.0,
        sensitivity=None,
        mechanism="randomised response",
        exclusions=("x is not labelled",),
    )
    assert str(once).startswith(
        "Each label is protected by (8, 0)-DP (replace-one adjacency) against the server that observes the single "
        "release of it (T=1)"
    )
    assert str(once).endswith("not covered: x is not labelled.")
    assert "against its own messages alone it is protected by (4, 1e-05)-DP" in str(guarantee(epsilon_rows=4.0))
    weights = guarantee(channel="head-weights", adjacency="add-remove", adversary="whoever gets the head")
    assert "subsampling" not in str(weights)


def test_a_printed_epsilon_is_never_below_the_real_one() -> None:
    for value in (8.0000001, 7.999999992, 1.23449, 0.0123449, 433.31, 12345.6, 0.1 + 0.2, 9.9999, 5e-324):
        text = str(guarantee(epsilon=value, epsilon_rows=value))
        found = re.search(r"\(([\d.e+-]+), 1e-05\)", text)
        assert found
        assert value * (1 - 1e-8) <= float(found[1]) <= value * 1.001
    assert "(8, 1e-05)" in str(guarantee(epsilon=7.999999992, epsilon_rows=1.0))
    assert "(8.001, 1e-05)" in str(guarantee(epsilon=8.0000001, epsilon_rows=1.0))
    assert "(0, 1e-05)" in str(guarantee(epsilon=0.0, epsilon_rows=0.0))


@given(guarantees())
def test_every_guarantee_is_one_sentence_with_its_terms(one: Guarantee) -> None:
    text = str(one)
    assert text.endswith(".")
    assert text[0].isupper()
    assert not re.search(r"[.!?] ", text)
    assert one.adjacency in text
    assert one.adversary in text
    assert f"T={one.T}" in text
    assert TRAINED in text
    assert "None" not in text
    assert ("-DP" in text) == any(e is not None for e in (one.epsilon, one.epsilon_rows, one.epsilon_query))


@given(guarantees())
def test_it_survives_json(one: Guarantee) -> None:
    assert Guarantee.from_dict(json.loads(json.dumps(one.as_dict(), allow_nan=False))) == one


def test_a_bad_record_is_named() -> None:
    record = guarantee().as_dict()
    with pytest.raises(
        UnknownName, match=r"unknown attribute of a guarantee: 'epsilon_row'\. Did you mean 'epsilon_rows'"
    ):
        Guarantee.from_dict({**record, "epsilon_row": 1.0})
    record.pop("delta")
    with pytest.raises(BadSetting, match="a guarantee needs delta too"):
        Guarantee.from_dict(record)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"channel": "input"}, "Did you mean 'inputs'"),
        ({"adjacency": "replace one"}, "Did you mean 'replace-one'"),
        ({"epsilon": None}, "epsilon is None: say why in exclusions"),
        ({"epsilon_query": None, "epsilon": None}, "epsilon and epsilon_query is None"),
        ({"epsilon": float("inf")}, "epsilon must be finite and at least 0; got inf. Without a guarantee it is None"),
        ({"epsilon_rows": float("nan")}, "epsilon_rows must be finite"),
        ({"epsilon_query": -1.0}, "epsilon_query must be finite and at least 0"),
        ({"epsilon": 4.0}, "epsilon=4 is below epsilon_rows=8"),
        ({"delta": 1.0}, r"delta must lie in \[0, 1\)"),
        ({"sensitivity": 0.0}, "sensitivity must be positive"),
        ({"T": 0}, "T must be a whole number of at least 1"),
        ({"T": 2.0}, "T must be a whole number"),
        ({"exclusions": "the head is trained"}, "exclusions must be a tuple of clauses"),
    ],
)
def test_what_is_no_guarantee_is_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        guarantee(**bad)


def test_voiding_takes_every_epsilon_and_says_why() -> None:
    void = guarantee(exclusions=("labels are sent in clear",)).voided("a defense mixes the rows of a batch")
    assert (void.epsilon, void.epsilon_rows, void.epsilon_query) == (None, None, None)
    assert void.exclusions == ("a defense mixes the rows of a batch", "labels are sent in clear")
    assert "Each client input has no stated guarantee" in str(void)


def test_along_one_channel_the_smaller_epsilon_stands_never_a_sum() -> None:
    strong, weak = guarantee(epsilon=4.0, epsilon_rows=4.0, epsilon_query=1.0, T=3), guarantee()
    assert compose([weak, strong]) == compose([strong, weak]) == (strong,)
    assert compose([weak, weak]) == (weak,)
    assert compose([weak.voided("it mixes rows"), weak]) == (weak,)
    assert compose([weak, dataclasses.replace(weak, delta=0.0).voided("it mixes rows")]) == (weak,)
    assert compose([]) == ()


def test_different_channels_stand_side_by_side() -> None:
    inputs, labels = guarantee(), guarantee(channel="labels", epsilon=1.0, epsilon_rows=1.0)
    assert compose([inputs, labels]) == (inputs, labels)


def test_statements_that_do_not_imply_each_other_both_stand() -> None:
    training = guarantee(epsilon_query=None, exclusions=("queries are undefended",))
    query = guarantee(epsilon=None, epsilon_rows=None, exclusions=("training is undefended",))
    assert compose([training, query]) == (training, query)
    pure = guarantee(delta=0.0, epsilon=9.0, epsilon_rows=9.0)
    assert compose([training, pure]) == (training, pure)
    zero_out = guarantee(adjacency="zero-out", epsilon=3.0, epsilon_rows=3.0, sensitivity=1.0)
    assert compose([guarantee(), zero_out]) == (guarantee(), zero_out)


@given(st.lists(guarantees(), max_size=6))
def test_what_stands_is_some_of_what_came_and_does_not_hang_on_the_order(several: list[Guarantee]) -> None:
    stands = compose(several)
    assert all(one in several for one in stands)
    assert compose(stands) == stands
    assert {one.channel for one in stands} == {one.channel for one in several}
    for one, scope in itertools.product(several, ("epsilon", "epsilon_rows", "epsilon_query")):
        best = getattr(one, scope)
        if best is not None:
            assert any(
                getattr(s, scope) is not None and getattr(s, scope) <= best for s in stands if s.channel == one.channel
            )
    back = compose(reversed(several))
    assert sorted(map(_numbers, back)) == sorted(map(_numbers, stands))


def _numbers(one: Guarantee) -> str:
    """What `compose` compares; without any epsilon, delta says nothing."""
    epsilons = (one.epsilon, one.epsilon_rows, one.epsilon_query)
    return repr((one.channel, one.adjacency, epsilons, one.delta if any(e is not None for e in epsilons) else None))
