# SPDX-License-Identifier: Apache-2.0
"""Membership by confidence: its closed form, references that tell hard rows from unseen ones, and unknown tails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, Guess, Labels, MissingKnowledge, Rows, Sees, View
from splitguard.building.reference import confidence, fitted
from splitguard.errors import BadSetting
from splitguard.metrics import auc
from tests.attacks.views import gen, sent_view

WIDTH, KINDS = 64, 2
#: Standard error of the AUC of 60 members and 60 strangers where there is nothing to find (Mann and Whitney).
ERROR = (121 / (12 * 60 * 60)) ** 0.5


def rows(count: int, seed: int) -> Rows:
    """Points (1, 8, 8) whose class shows in the first pixel, faintly, and more in some rows than in others."""
    labels = torch.arange(count) % KINDS
    points = torch.randn(count, 1, 8, 8, generator=gen(seed))
    strength = 6 * torch.rand(count, generator=gen(seed + 1))
    points[:, 0, 0, 0] += (2 * labels - 1) * strength
    return Rows(points, labels, torch.arange(count))


def linear() -> nn.Sequential:
    out = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, KINDS))
    layer = out[1]
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return out


def view_of(victims: Rows, body: nn.Module, *, told: bool = True, aux: Rows | None = None) -> View:
    view = sent_view(victims.inputs, [nn.Identity()], [[0]] * len(victims))
    assert view._releases is not None
    releases = replace(view._releases, labels=victims.labels if told else None)
    return replace(view, _releases=releases, _aux=aux, models=replace(view.models, body=lambda: body))


def margin(guess: Guess) -> Tensor:
    assert guess.scores is not None
    assert torch.equal(guess.scores[:, 0], torch.zeros(len(guess.scores)).double())
    return guess.scores[:, 1]


def run(view: View, **settings: Any) -> Guess:
    return ATTACKS.build("membership", **settings).run(view, gen())


@pytest.fixture(scope="module")
def learned() -> tuple[nn.Module, Rows, Tensor]:
    """A body that learned 60 of 120 rows by heart, the rows, and which ones."""
    everyone, members = rows(120, 0), torch.arange(120) % 4 < 2
    inside = everyone[members]
    body = fitted(linear(), inside.inputs, inside.labels, steps=400, generator=gen(9), lr=3e-2)
    return body, everyone, members


def test_without_references_it_is_the_logit_of_the_labels_probability() -> None:
    body, some = linear(), rows(9, 3)
    layer = body[1]
    assert isinstance(layer, nn.Linear)
    layer.weight.data = torch.randn(KINDS, WIDTH, generator=gen(4)) / 8
    guess = run(view_of(some, body.eval().requires_grad_(False)), references=0)
    likely = body(some.inputs).double().softmax(1)[torch.arange(9), some.labels]
    assert torch.allclose(margin(guess), likely.log() - (1 - likely).log(), atol=1e-5)
    unknown = run(view_of(some, body, told=False), references=0)
    most = body(some.inputs).double().softmax(1).amax(1)
    assert torch.allclose(margin(unknown), most.log() - (1 - most).log(), atol=1e-5)


def test_confidence_does_not_saturate() -> None:
    sure = nn.Linear(1, 3)
    sure.weight.data, sure.bias.data = torch.tensor([[100.0], [0.0], [0.0]]), torch.zeros(3)
    found = confidence(sure, torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0]))
    # log p - log(1 - p) with p = e^100 / (e^100 + 2): 100 - log 2, where p itself is 1 in any float
    assert torch.allclose(found, torch.tensor([100.0, 200.0]).double() - torch.log(torch.tensor(2.0).double()))


def test_rows_learned_by_heart_are_found(learned: tuple[nn.Module, Rows, Tensor]) -> None:
    body, everyone, members = learned
    found = auc(margin(run(view_of(everyone, body), references=0)), members.long())
    assert found is not None
    assert found > 0.5 + 3 * ERROR
    strangers = fitted(linear(), rows(60, 50).inputs, rows(60, 50).labels, steps=400, generator=gen(9), lr=3e-2)
    null = auc(margin(run(view_of(everyone, strangers), references=0)), members.long())
    assert null is not None
    assert abs(null - 0.5) < 3.5 * ERROR


@pytest.mark.slow
def test_references_tell_an_easy_row_from_one_that_was_learned() -> None:
    everyone, members, steps = rows(120, 0), torch.arange(120) % 4 < 2, 1000
    inside = everyone[members]
    body = fitted(linear(), inside.inputs, inside.labels, steps=steps, generator=gen(9))
    plain = auc(margin(run(view_of(everyone, body), references=0)), members.long())
    guess = run(view_of(everyone, body, aux=rows(900, 70)), references=1, steps=steps)
    compared = auc(margin(guess), members.long())
    assert guess.settings["weight"] in (0.5, 1.0)
    assert plain is not None
    assert compared is not None
    assert compared > plain
    assert (guess.budget.steps, guess.budget.queries, guess.budget.aux) == (3 * steps, 900, 900)


def test_without_queries_or_with_few_rows_it_is_the_plain_threshold(learned: tuple[nn.Module, Rows, Tensor]) -> None:
    body, everyone, _ = learned
    plain = margin(run(view_of(everyone, body), references=0))
    blinkered = view_of(everyone, body, aux=rows(90, 70))
    for view in (
        replace(blinkered, granted=blinkered.granted & ~Sees.QUERY),
        replace(blinkered, _aux=rows(11, 70)),
    ):
        guess = run(view, references=2, steps=20)
        assert torch.equal(margin(guess), plain)
        assert guess.settings["weight"] == 0
        assert guess.budget.steps == 0


def test_a_layer_fitted_to_auxiliary_rows_stands_for_an_unknown_tail(learned: tuple[nn.Module, Rows, Tensor]) -> None:
    body, everyone, members = learned
    view = replace(
        view_of(everyone, body, told=False, aux=rows(90, 70)), labels=Labels.CLIENT, cut_shapes=((1, 8, 8), (KINDS,))
    )
    known = replace(view, models=replace(view.models, tail=lambda at: nn.Identity()))
    exact = margin(run(known, references=0))
    assert torch.allclose(exact, confidence(body, everyone.inputs))
    hidden = replace(known, granted=known.granted & ~Sees.TAIL)
    found = auc(margin(run(hidden, references=0, steps=200)), members.long())
    assert found is not None
    assert found > 0.55  # unknown labels, a tail of one's own: little is left, but not nothing
    with pytest.raises(MissingKnowledge, match="tail"):
        run(replace(hidden, granted=hidden.granted & ~Sees.QUERY))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(BadSetting, match="steps must be at least 1; got 0"):
        ATTACKS.build("membership", steps=0)
