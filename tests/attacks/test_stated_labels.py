# SPDX-License-Identifier: Apache-2.0
"""Stated labels: the closed forms of randomised response, a known law against belief, and where it is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from splitguard.api import (
    ATTACKS,
    DEFENSES,
    Context,
    Defense,
    Labels,
    MissingKnowledge,
    Mode,
    NotSupported,
    Party,
    Releases,
    Sees,
    Stack,
    View,
)
from splitguard.attacks.stated_labels import Prior, StatedLabels
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting
from splitguard.metrics import score_labels
from splitguard.privacy import keep_probability, response
from tests.attacks.views import gen, label_view, rows_of, smooth
from tests.engine import toys


class Law(Defense):
    """Whatever it is told to be."""

    def __init__(self, law: Tensor | None) -> None:
        self.law = law

    def on_labels(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        raise AssertionError("the views here are made by hand")

    def label_law(self) -> Tensor | None:
        return self.law


def stated_view(
    labels: Tensor,
    law: Tensor,
    *,
    prior: Tensor | None = None,
    times: int = 1,
    remembered: bool = True,
    known: bool = True,
) -> View:
    """Row n is released ``times`` times; its label is answered by ``law``, once or at every release."""
    draws, count, classes = gen(3), len(labels), len(law)
    answers = torch.multinomial(law[labels], times, replacement=True, generator=draws)
    answers = answers[:, :1].expand(-1, times) if remembered else answers
    ids = 70 + torch.arange(count)
    view = label_view(torch.zeros(count, 1), labels, [], classes)
    rows = view.context
    full = rows.where(torch.arange(count).repeat_interleave(times))
    changed: dict[str, Any] = {**vars(full), "ids": ids.repeat_interleave(times), "labels": answers.flatten()}
    shuffled = Releases(**changed).where(torch.randperm(count * times, generator=draws))
    view.ids, view.labels, view.defense = ids, Labels.SENT, Law(law if known else None)
    view._class_prior = torch.full((classes,), 1 / classes) if prior is None else prior
    view._releases, view._aux = shuffled, rows_of(smooth(7))
    return view


def hits(view: View, truth: Tensor, **settings: Any) -> Tensor:
    """(N,) bool: which rows are guessed rightly."""
    guess = ATTACKS.build({"stated-labels": settings}).run(view, gen())
    assert guess.labels is not None
    assert guess.scores is not None
    assert torch.equal(guess.scores.argmax(1), guess.labels)
    return guess.labels == truth


def near(found: Tensor, wanted: float) -> bool:
    """Within four standard errors of the share."""
    return abs(float(found.double().mean()) - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / len(found))


def test_a_prior_counted_on_auxiliary_rows_is_read_from_them_and_costs_them() -> None:
    view = stated_view(torch.arange(12) % 3, response(torch.ones(3), epsilon=1.0))
    spent = {prior: StatedLabels(prior=prior).run(view, gen()).budget.aux for prior in get_args(Prior)}
    assert spent == {"uniform": 0, "aux": 7}
    without = replace(view, granted=view.granted & ~Sees.AUX)
    with pytest.raises(MissingKnowledge, match="not granted: aux"):
        StatedLabels(prior="aux").run(without, gen())
    assert StatedLabels().run(without, gen()).labels is not None


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0, 4.0])
def test_randomised_response_is_guessed_as_often_as_it_keeps_the_truth(epsilon: float, times: int) -> None:
    """One remembered answer a row: no number of releases and no skew of the classes changes p = e^eps/(e^eps + K-1)."""
    truth = torch.multinomial(torch.tensor([8.0, 4, 2, 1, 1, 1, 1, 1, 1, 1]), 20_000, replacement=True, generator=gen())
    law = response(torch.ones(10), epsilon=epsilon)
    found = hits(stated_view(truth, law, times=times), truth)
    assert near(found, keep_probability(epsilon=epsilon, classes=10))


def test_the_prior_brings_the_best_accuracy_there_is_and_no_balance() -> None:
    prior = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    law = response(torch.ones(3), epsilon=1.0)
    truth = torch.multinomial(prior, 30_000, replacement=True, generator=gen())
    best = float((prior[:, None] * law).max(0).values.sum())
    view = stated_view(truth, law, prior=prior)
    with_prior, without = hits(view, truth, prior="aux"), hits(view, truth)
    assert near(with_prior, best)
    assert best > 0.7 - 1e-9 > keep_probability(epsilon=1.0, classes=3) + 0.1
    assert float(with_prior.double().mean()) > float(without.double().mean())

    def balanced(found: Tensor) -> float:
        return sum(float(found[truth == y].double().mean()) for y in range(3)) / 3

    assert balanced(with_prior) < balanced(without)


def test_a_prior_that_nobody_can_count_is_missing_and_no_class() -> None:
    truth = torch.tensor([0, 1, 2])
    view = stated_view(truth, response(torch.ones(3), epsilon=1.0), prior=torch.full((3,), math.nan))
    with pytest.raises(MissingKnowledge, match="this view has none"):
        StatedLabels(prior="aux").run(view, gen())
    assert StatedLabels().run(view, gen()).labels is not None


def test_a_law_that_lies_is_seen_through_and_belief_is_not() -> None:
    """Two classes, and the answer is mostly the other one: the static attacker is wrong as often as the other right."""
    law = torch.tensor([[0.1, 0.9], [0.8, 0.2]], dtype=torch.float64)
    truth = torch.arange(10_000) % 2
    assert near(hits(stated_view(truth, law), truth), 0.85)
    static = stated_view(truth, law)
    static.adaptive = False
    assert near(hits(static, truth), 0.15)
    assert near(hits(stated_view(truth, law, known=False), truth), 0.15)


def test_answers_drawn_anew_at_every_release_add_up() -> None:
    """Five fresh answers of two classes at epsilon 1: the majority is right as the binomial says, one answer is not."""
    p = keep_probability(epsilon=1.0, classes=2)
    truth = torch.arange(20_000) % 2
    fresh = stated_view(truth, response(torch.ones(2), epsilon=1.0), times=5, remembered=False)
    q = 1 - p
    assert near(hits(fresh, truth), p**5 + 5 * p**4 * q + 10 * p**3 * q**2)


@pytest.mark.slow
def test_beside_the_blind_guess_it_leaks_what_the_law_tells() -> None:
    truth = torch.arange(20_000) % 4
    view = stated_view(truth, response(torch.ones(4), epsilon=2.0))
    guess = ATTACKS.build("stated-labels").run(view, gen())
    score = score_labels(guess.labels, guess.scores, truth, classes=4, prior=view.class_prior)
    p = keep_probability(epsilon=2.0, classes=4)
    assert score.blind == pytest.approx(0.25)
    assert score.leakage == pytest.approx((p - 0.25) / 0.75, abs=0.02)


def run(defense: Defense | None, **how: Any) -> Session:
    return train(
        toys.lenet(), toys.data(2), cut="conv2", defense=defense, training=Training(epochs=2, batch_size=8), **how
    )


def test_in_a_session_the_victims_are_one_clients_rows_and_the_labels_are_the_stated_ones() -> None:
    defense = DEFENSES.build({"label-dp": {"epsilon": 1.0}})
    session, attack = run(defense), ATTACKS.build("stated-labels")
    view = session.view(attack)
    client = session.data.clients[0]
    assert len(view.ids) == len(client) - 3  # less the one a class that label attacks know
    assert bool(torch.isin(view.ids, client).all())
    guess, truth = attack.run(view, gen()), session.truth(view.ids).labels
    answers = defense.on_labels(truth, Context(view.ids, 0, 9, 99, view.phase), gen())
    assert guess.labels is not None
    assert torch.equal(guess.labels, answers)  # uniform prior and plain response: what was stated is most likely
    assert not torch.equal(guess.labels, truth)
    assert guess.settings["law"] == "known"
    assert attack.run(session.view(attack, adaptive=False), gen()).settings["law"] == "believed"


@pytest.mark.parametrize(
    ("defense", "how", "told"),
    [
        ("none", {}, r"this adversary \(the server\) is given the labels"),
        ({"gaussian": {"epsilon": 8}}, {}, r"this adversary \(the server\) is given the labels"),
        ("label-dp", {"labels": Labels.SERVER}, r"this adversary \(the server\) is given the labels"),
        ("label-dp", {"mode": Mode.U_SHAPED}, "the server never sees: labels"),
    ],
)
def test_where_the_labels_are_true_or_absent_it_is_refused(defense: Any, how: dict[str, Any], told: str) -> None:
    session = run(DEFENSES.build(defense), **how)
    with pytest.raises(NotSupported, match=told):
        session.view(ATTACKS.build("stated-labels"))


@pytest.mark.parametrize("name", ["model-completion", "similarity-smashed"])
def test_what_the_smashed_data_tell_of_a_label_can_be_looked_for_too(name: str) -> None:
    session, attack = run(DEFENSES.build("label-dp")), ATTACKS.build({name: dict(ATTACKS.build(name).quick)})
    view = session.view(attack)
    assert view.party is Party.SERVER
    guess = attack.run(view, gen())
    assert guess.labels is not None
    assert len(guess.labels) == len(view.ids)


def test_a_stack_of_laws_is_their_product_and_an_unknown_one_makes_it_unknown() -> None:
    one, two = response(torch.ones(3), epsilon=1.0), response(torch.tensor([3.0, 1, 1]), epsilon=0.5)
    found = Stack([Law(one), Defense(), Law(two)]).label_law()
    assert found is not None
    assert torch.allclose(found, one @ two)
    assert Stack([Law(one), Law(None)]).label_law() is None
    assert Stack([Defense()]).label_law() is None


def test_settings() -> None:
    with pytest.raises(BadSetting, match="setting 'prior' got 'axu': Input should be 'uniform' or 'aux'"):
        ATTACKS.build({"stated-labels": {"prior": "axu"}})
