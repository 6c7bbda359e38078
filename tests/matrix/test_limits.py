# SPDX-License-Identifier: Apache-2.0
"""The bound beside choices among candidates: of the noise that a guarantee counts, and none without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from splitguard.api import Guess, Phase, Sees, Spec, Threat, build_defense
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.matrix.judge import judge
from splitguard.matrix.limits import candidate_limit
from splitguard.privacy import candidate_bound, candidate_bound_pure
from tests.engine import toys
from tests.matrix.test_judge import Given, GivenChoices, session


def test_choices_are_scored_beside_their_bound() -> None:
    noisy = session(defense=build_defense({"gaussian": {"epsilon": 50}}))
    attack = GivenChoices()
    for phase, releases in (("training", 2), ("query", 1)):
        view = noisy.view(attack, phase=phase)
        right = judge(noisy, attack, view, Guess(view.ids, choices=noisy.choices(view))).values
        assert (right["choice_accuracy"], right["leakage"], right["blind"]) == (1, 1, 1 / 6)
        sigma, (guarantee,) = noisy.defense.noise_std(), noisy.guarantees
        assert guarantee.sensitivity is not None
        wanted = candidate_bound(candidates=6, sigma=sigma, clip=guarantee.sensitivity / 2, releases=releases)
        assert right["bound"] == pytest.approx(wanted, rel=1e-6)
        named = view.candidates[noisy.choices(view)]
        assert torch.equal(named, noisy.truth(view.ids).inputs)
        assert not torch.equal(view.candidates, noisy.truth(view.ids).inputs)  # their order tells nothing


def test_the_bound_of_a_stack_is_that_of_the_noise_its_guarantee_counts() -> None:
    accounted = {"gaussian": {"sigma": 0.5, "clip": 1.0}}
    bounds = []
    for defense in (accounted, [accounted, {"dropout": {"rate": 0.5}}, {"noise": {"sigma": 50.0}}]):
        noisy = session(defense=build_defense(defense))
        view = noisy.view(GivenChoices())
        bounds.append(judge(noisy, GivenChoices(), view, Guess(view.ids, choices=noisy.choices(view))).values["bound"])
    assert bounds[0] == pytest.approx(candidate_bound(candidates=6, sigma=0.5, clip=1.0, releases=2), rel=1e-6)
    assert bounds[1] == bounds[0]


def test_a_pure_epsilon_bounds_choices_as_randomised_response_does() -> None:
    noisy = session(defense=build_defense({"laplace": {"epsilon": 40}}))
    (guarantee,) = noisy.guarantees
    attack, bounds = GivenChoices(), []
    for phase, epsilon in (("training", guarantee.epsilon_rows), ("query", guarantee.epsilon_query)):
        assert epsilon is not None
        view = noisy.view(attack, phase=phase)
        right = judge(noisy, attack, view, Guess(view.ids, choices=noisy.choices(view))).values
        assert right["bound"] == candidate_bound_pure(candidates=6, epsilon=epsilon)
        bounds.append(epsilon)
    assert bounds[1] < bounds[0]  # one query tells less than two sendings


def test_the_weaker_adjacency_of_a_pure_epsilon_bounds_nothing_here() -> None:
    noisy = session(defense=build_defense({"laplace": {"epsilon": 40, "adjacency": "zero-out"}}))
    attack = GivenChoices()
    view = noisy.view(attack)
    assert judge(noisy, attack, view, Guess(view.ids, choices=noisy.choices(view))).values["bound"] is None


@pytest.mark.parametrize("phase", ["training", "query"])
@pytest.mark.parametrize("defense", [{"gaussian": {"sigma": 0.5, "clip": 1.0}}, {"laplace": {"epsilon": 40}}])
def test_images_are_scored_beside_the_bound_of_their_victims_as_candidates(defense: Spec, phase: str) -> None:
    noisy = session(defense=build_defense(defense))
    choosing, view = noisy.view(GivenChoices(), phase=phase), noisy.view(Given(), phase=phase)
    images = judge(noisy, Given(), view, Guess(view.ids, images=noisy.truth(view.ids).inputs)).values
    chosen = judge(noisy, GivenChoices(), choosing, Guess(view.ids, choices=noisy.choices(choosing))).values
    assert images["bound"] is not None
    assert (images["bound"], images["reid"], images["chance"]) == (chosen["bound"], 1, 1 / 6)


def test_who_is_shown_labels_names_one_of_a_class() -> None:
    @dataclass
    class Shown(Given):
        threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.LABELS)

    defense = build_defense({"gaussian": {"sigma": 2.0, "clip": 1.0}})
    noisy = train(toys.lenet(), toys.data(2), training=Training(epochs=1, batch_size=8), cut="conv2", defense=defense)

    def bound(attack: Given, phase: str) -> float:
        view = noisy.view(attack, phase=phase)
        found = judge(noisy, attack, view, Guess(view.ids, images=noisy.truth(view.ids).inputs)).values["bound"]
        assert isinstance(found, float)
        return found

    labels = noisy.truth(noisy.data.members).labels.tolist()
    among = [labels.count(label) for label in labels]
    assert len(set(among)) > 1
    wanted = [1.0 if n == 1 else candidate_bound(candidates=n, sigma=2.0, clip=1.0) for n in among]
    assert bound(Shown(), "training") == pytest.approx(sum(wanted) / len(wanted))
    assert bound(Given(), "training") == pytest.approx(candidate_bound(candidates=len(among), sigma=2.0, clip=1.0))
    assert bound(Shown(), "query") == bound(Given(), "query")  # queries come without labels


def test_one_victim_is_no_game() -> None:
    noisy = session(defense=build_defense({"laplace": {"epsilon": 40}}))
    assert candidate_limit(noisy, Phase.TRAINING, 1) is None
    assert candidate_limit(noisy, Phase.TRAINING, 2) is not None


def test_no_bound_without_an_account() -> None:
    attack, plain = GivenChoices(), session()
    view = plain.view(attack)
    assert judge(plain, attack, view, Guess(view.ids, choices=plain.choices(view))).values["bound"] is None
    view = plain.view(Given())
    assert judge(plain, Given(), view, Guess(view.ids, images=plain.truth(view.ids).inputs)).values["bound"] is None
