# SPDX-License-Identifier: Apache-2.0
"""What is left of a defense's guarantees beside other defenses."""

from __future__ import annotations

import dataclasses

import pytest

from splitguard.defenses.dp_sgd_head import DpSgdHead
from splitguard.defenses.nopeek import NoPeek
from splitguard.engine.bench import Bench
from splitguard.engine.defense import Defense
from splitguard.engine.stack import Stack
from splitguard.privacy.guarantee import Guarantee
from tests.engine.small_defenses import Apart, Detector, Labels, Learner, Mixer, Wrapper, gaussian


def stated(*parts: Defense, frozen: bool = True) -> tuple[Guarantee, ...]:
    stack = Stack(parts)
    Bench(stack, head_frozen=frozen)
    return stack.privacy()


def test_along_one_channel_the_smaller_epsilon_stands_and_channels_stand_side_by_side() -> None:
    alone = stated(gaussian(epsilon=4, clip=1.0))
    assert stated(gaussian(epsilon=8, clip=1.0), gaussian(epsilon=4, clip=1.0)) == alone
    assert stated(gaussian(epsilon=4, clip=1.0), gaussian(epsilon=8, clip=1.0)) == alone
    assert [g.channel for g in stated(gaussian(epsilon=4, clip=1.0), Labels())] == ["inputs", "labels"]


@pytest.mark.parametrize("other", [Mixer, Wrapper])
@pytest.mark.parametrize("first", [True, False])
def test_what_may_mix_rows_voids_by_name(other: type[Defense], first: bool) -> None:
    parts = [other(), gaussian(epsilon=4, clip=1.0), Labels()]
    inputs, labels = stated(*(parts if first else parts[1:] + parts[:1]))
    assert (inputs.epsilon, inputs.epsilon_rows, inputs.epsilon_query) == (None, None, None)
    assert inputs.exclusions[0] == f"{other.name} may mix the rows of a batch in what is sent"
    assert labels == Labels().privacy()[0]


def test_several_that_void_are_all_named() -> None:
    [told] = stated(Mixer(), gaussian(epsilon=4, clip=1.0), Wrapper())
    assert told.exclusions[0].startswith("mixer and wrapper may mix")


def test_what_keeps_rows_apart_voids_nothing() -> None:
    alone = stated(gaussian(epsilon=4, clip=1.0))
    assert alone[0].epsilon is not None
    assert stated(Apart(), gaussian(epsilon=4, clip=1.0), Detector()) == alone


def test_networks_that_learn_from_raw_rows_cost_the_whole_view() -> None:
    [alone], [told] = stated(gaussian(epsilon=4, clip=1.0)), stated(Learner(), gaussian(epsilon=4, clip=1.0))
    why = "learner sends through networks that learn from raw rows"
    assert told == dataclasses.replace(alone, epsilon=None, exclusions=(why, *alone.exclusions))


def test_a_penalty_voids_what_is_said_of_weights_and_nothing_of_inputs() -> None:
    def beside(*parts: Defense) -> tuple[Guarantee, ...]:
        stack = Stack(parts)
        Bench(stack, head_frozen=False)
        return stack.privacy()

    [alone] = beside(DpSgdHead(epsilon=8.0))
    assert alone.epsilon_rows is not None
    [told] = beside(DpSgdHead(epsilon=8.0), NoPeek())
    assert told.epsilon_rows is None
    assert told.exclusions[0] == "nopeek may bring a row into the gradients of others"
    assert beside(NoPeek(), gaussian(epsilon=4, clip=1.0)) == beside(gaussian(epsilon=4, clip=1.0))
