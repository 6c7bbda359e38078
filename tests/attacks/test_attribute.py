# SPDX-License-Identifier: Apache-2.0
"""The probe reads what smashed data hold, knows what a label rules out, and refuses data without attributes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, Defense, Guess, MissingKnowledge, Rows, View
from splitguard.attacks.attribute import _Probe
from splitguard.errors import BadSetting
from tests.attacks.views import Noise, gen, sent_view

#: Four attributes, which the network was taught to merge into two labels.
VALUES, TO = 4, torch.tensor([0, 0, 1, 1])


def rows(count: int, seed: int, first: int = 0) -> Rows:
    """Images whose attribute is the quarter that is brighter than the others."""
    attributes = torch.arange(count) % VALUES
    images = 0.4 * torch.rand(count, 1, 8, 8, generator=gen(seed))
    for value in range(VALUES):
        row, column = 4 * (value // 2), 4 * (value % 2)
        images[attributes == value, :, row : row + 4, column : column + 4] += 0.5
    return Rows(images, TO[attributes], torch.arange(first, first + count), attributes)


def view_of(victims: Rows, head: nn.Module, *, aux: Rows, told: bool = False, **how: Any) -> View:
    made_by = how.pop("made_by", [[0]] * len(victims))
    view = sent_view(victims.inputs, [head], made_by, **how)
    assert view._releases is not None
    owner = view._releases.ids - 100
    releases = replace(view._releases, labels=victims.labels[owner] if told else None)
    return replace(view, _releases=releases, _aux=aux, attribute_classes=VALUES)


def run(view: View, **settings: Any) -> Guess:
    return ATTACKS.build("attribute", **settings).run(view, gen())


def labels_of(guess: Guess) -> Tensor:
    assert guess.labels is not None
    return guess.labels


@pytest.mark.parametrize("hidden", [0, 8])
def test_what_smashed_data_hold_is_read_off_them(hidden: int) -> None:
    victims, aux = rows(20, 0), rows(60, 1, first=500)
    guess = run(view_of(victims, nn.AvgPool2d(2), aux=aux), hidden=hidden)
    assert victims.attributes is not None
    assert torch.equal(labels_of(guess), victims.attributes)
    assert guess.scores is not None
    assert torch.equal(guess.scores.argmax(1), labels_of(guess))
    assert torch.allclose(guess.scores.exp().sum(1), torch.ones(20).double(), atol=1e-6)


@pytest.mark.parametrize(("count", "answers"), [(60, 1), (200, 1), (150, 3)])
def test_the_steps_of_the_network_are_its_optimizers(count: int, answers: int) -> None:
    attributes = torch.arange(count) % VALUES
    probe = _Probe(hidden=4)
    probe.fit([torch.rand(count, 3, generator=gen(n)).double().numpy() for n in range(answers)], attributes)
    assert probe.steps == probe._model._optimizer.t > probe._model.n_iter_ * (answers > 1)


class Nothing(nn.Module):
    """Sends the same for every image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 3)


def test_a_label_rules_out_what_no_auxiliary_row_of_it_has() -> None:
    """The smashed data say nothing, so the guess is the most frequent attribute, of the label where that is told."""
    some = rows(64, 1, first=500)
    assert some.attributes is not None
    aux = some[torch.nonzero((some.attributes % 2 == 1) | (some.ids < 530)).flatten()]  # 1 and 3 are more frequent
    victims = rows(8, 0)
    told = labels_of(run(view_of(victims, Nothing(), aux=aux, told=True), hidden=0))
    assert torch.equal(told, torch.where(victims.labels == 0, 1, 3))
    blind = labels_of(run(view_of(victims, Nothing(), aux=aux), hidden=0))
    assert len(blind.unique()) == 1


class Flips(Defense):
    """Sends labels that mean nothing."""

    def on_labels(self, labels: Tensor, ctx: Any, generator: torch.Generator) -> Tensor:
        return 1 - labels


def test_labels_that_a_defense_changes_rule_nothing_out_for_who_knows_it() -> None:
    victims, aux = rows(20, 0), rows(60, 1, first=500)
    wrong = replace(victims, labels=1 - victims.labels)
    assert victims.attributes is not None
    wise = run(view_of(wrong, nn.AvgPool2d(2), aux=aux, told=True, defense=Flips()), hidden=0)
    assert torch.equal(labels_of(wise), victims.attributes)
    simple = run(view_of(wrong, nn.AvgPool2d(2), aux=aux, told=True, defense=Flips(), adaptive=False), hidden=0)
    assert not bool((labels_of(simple) == victims.attributes).any())


def test_of_a_label_that_is_wrong_by_a_known_law_the_better_part_is_believed() -> None:
    """Smashed data say nothing; the label is kept in 9 cases of 10, or in 1 of 10, and the attacker knows which."""

    class Sometimes(Flips):
        def __init__(self, keeps: float) -> None:
            self.keeps = keeps

        def label_law(self) -> Tensor:
            return torch.tensor([[self.keeps, 1 - self.keeps], [1 - self.keeps, self.keeps]], dtype=torch.float64)

    some = rows(64, 1, first=500)
    assert some.attributes is not None
    aux = some[torch.nonzero((some.attributes % 2 == 1) | (some.ids < 530)).flatten()]  # 1 and 3 are more frequent
    victims = rows(8, 0)
    for keeps, wanted in ((0.9, victims.labels), (0.1, 1 - victims.labels)):
        guess = run(view_of(victims, Nothing(), aux=aux, told=True, defense=Sometimes(keeps)), hidden=0)
        assert torch.equal(labels_of(guess), torch.where(wanted == 0, 1, 3))
        assert guess.scores is not None
        pair = guess.scores[0, 1] - guess.scores[0, 3]
        share = (aux.attributes == 1).sum() / (aux.attributes == 3).sum() if aux.attributes is not None else 1
        odds = keeps / (1 - keeps) if victims.labels[0] == 0 else (1 - keeps) / keeps
        assert math.isclose(float(pair), math.log(float(share) * odds), abs_tol=0.05)


def test_several_releases_by_one_head_are_averaged_and_so_are_the_answers() -> None:
    victims, aux, times = rows(60, 0), rows(80, 1, first=500), 9
    assert victims.attributes is not None
    right = {}
    for name, made_by in (("one", [[0]] * 60), ("all", [[0] * times] * 60)):
        view = view_of(victims, nn.AvgPool2d(4), aux=aux, made_by=made_by, defense=Noise(0.6))
        guess = run(view, hidden=0, draws=3)
        count = times if name == "all" else 1
        assert guess.settings["releases_averaged"] == count
        assert guess.budget.queries == 2 * 16 + 3 * count * 80
        right[name] = float((labels_of(guess) == victims.attributes).double().mean())
    # Two means lie 0.5 sqrt(2) apart: at a noise of 0.6 a pair is confused 28 times in 100, at 0.2 4 times.
    assert right["all"] > 0.8
    assert right["all"] > right["one"] + 0.2


def test_a_static_attacker_asks_once_and_takes_the_last_release() -> None:
    victims, aux = rows(12, 0), rows(40, 1, first=500)
    view = view_of(victims, nn.AvgPool2d(4), aux=aux, made_by=[[0, 0]] * 12, defense=Noise(0.1), adaptive=False)
    guess = run(view, hidden=0)
    assert (guess.budget.queries, guess.budget.aux, guess.settings["releases_averaged"]) == (40, 40, 1)


def test_rows_without_attributes_and_too_few_rows_are_refused() -> None:
    victims, aux = rows(4, 0), rows(40, 1, first=500)
    with pytest.raises(MissingKnowledge, match="no attributes; see data: coarse"):
        run(view_of(victims, nn.AvgPool2d(4), aux=Rows(aux.inputs, aux.labels, aux.ids)))
    with pytest.raises(BadSetting, match="at least 10 auxiliary rows; got 9"):
        run(view_of(victims, nn.AvgPool2d(4), aux=aux[:9]))
    with pytest.raises(BadSetting, match="components must be at least 1; got 0"):
        ATTACKS.build("attribute", components=0)
