# SPDX-License-Identifier: Apache-2.0
"""What those who score a guess ask of a session: which network gets which test row right, and who knew which label."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from splitguard.api import build_defense
from splitguard.data import Rows
from splitguard.engine.deployed import evaluating
from splitguard.engine.fresh import fresh_copy
from splitguard.engine.roles import Attack, Guess
from splitguard.engine.scoring import function_hits, hits, taught_labels, told_labels
from splitguard.engine.session import Session
from splitguard.engine.threat import Goal, Labels, Mode, Sees, Threat
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.engine.view import View
from splitguard.errors import BadSetting, NotSupported
from tests.engine import toys

QUICK = Training(epochs=1, batch_size=8)
WELL = Training(epochs=8, batch_size=8, optimizer={"name": "adam", "lr": 5e-3})


def session(**how: Any) -> Session:
    return train(toys.lenet(dropout=0.0), toys.data(2), training=WELL, **{"cut": "pool1", **how})


@pytest.fixture(scope="module")
def plain() -> Session:
    return session()


@dataclass
class Probe(Attack):
    """After whatever the test says."""

    goal: ClassVar[Goal] = Goal.FUNCTIONALITY
    threat: ClassVar[Threat] = Threat(Sees.SMASHED)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids)


def test_the_clients_own_head_works_as_the_deployment_does(plain: Session) -> None:
    found = function_hits(plain, Guess(plain.data.members, head=copy.deepcopy(plain.split.head)))
    assert torch.equal(found.stolen, found.deployed)
    assert float(found.deployed.double().mean()) == plain.accuracy
    assert plain.accuracy is not None
    assert plain.accuracy > float(found.blind.double().mean()) - 0.35


def test_a_head_of_other_weights_works_less_well_and_its_mode_is_left_alone(plain: Session) -> None:
    head = fresh_copy(plain.split.head, torch.Generator().manual_seed(3))
    found = function_hits(plain, Guess(plain.data.members, head=head))
    assert head.training
    assert int(found.stolen.sum()) < int(found.deployed.sum())


def test_blind_is_a_network_of_auxiliary_rows_alone(plain: Session) -> None:
    alone = plain.alone()
    assert alone is not None
    assert alone is plain.alone()
    for (_, mine), (_, theirs) in zip(alone.stages, plain.split.stages, strict=True):
        assert all(not torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    other = session()
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), other.alone().parameters(), strict=True))  # type: ignore[union-attr]  # it has auxiliary rows
    rows = plain.data.test
    with evaluating([alone]), torch.no_grad():
        right = alone(rows.inputs).argmax(1) == rows.labels
    found = function_hits(plain, Guess(plain.data.members, head=plain.split.head))
    most = int(plain.data.classes_prior.argmax())
    assert int(found.blind.sum()) == max(int(right.sum()), int((rows.labels == most).sum()))
    on_aux = hits([stage for _, stage in alone.stages], plain.data.aux)
    assert float(on_aux.double().mean()) > 0.7  # it did learn, as many steps as the session took


def test_where_the_client_holds_a_tail_that_is_stolen_too() -> None:
    run = session(mode=Mode.U_SHAPED, cut=("pool1", "fc1"), labels=Labels.CLIENT)
    with pytest.raises(BadSetting, match="hands over a stolen tail"):
        function_hits(run, Guess(run.data.members, head=run.split.head))
    found = function_hits(run, Guess(run.data.members, head=run.split.head, tail=run.split.tail))
    assert float(found.stolen.double().mean()) == run.accuracy
    swapped = nn.Sequential(nn.ReLU(), nn.Linear(16, 3))
    other = function_hits(run, Guess(run.data.members, head=run.split.head, tail=swapped))
    assert not torch.equal(other.stolen, found.stolen)


def test_layers_that_do_not_fit_are_refused(plain: Session) -> None:
    with pytest.raises(BadSetting, match=r"a stolen head maps \(N, \*in\) to \(N, \*cut1\)"):
        function_hits(plain, Guess(plain.data.members, head=nn.Flatten()))
    with pytest.raises(BadSetting, match="hands over a stolen head; its guess has none"):
        function_hits(plain, Guess(plain.data.members))


def test_labels_are_told_where_the_wire_shows_them(plain: Session) -> None:
    view = plain.view(Probe())
    told = told_labels(plain, view)
    assert told is not None
    assert torch.equal(told, plain.truth(view.ids).labels)
    inputs = type("Inputs", (Probe,), {"goal": Goal.INPUTS})()
    assert told_labels(plain, plain.view(inputs, phase="query")) is None
    hidden = session(mode=Mode.U_SHAPED, cut=("pool1", "fc1"), labels=Labels.CLIENT)
    assert told_labels(hidden, hidden.view(Probe())) is None


def test_auxiliary_labels_are_taught_as_the_wire_shows_labels(plain: Session) -> None:
    """A blind guess by labels that a defense changes learns from labels that it changed alike."""
    assert taught_labels(plain) is plain.data.aux.labels
    data = dataclasses.replace(toys.data(2), aux=_many(toys.data(2).aux, 3000))
    defended = train(
        toys.lenet(), data, cut="pool1", training=QUICK, defense=build_defense({"label-dp": {"epsilon": 1}})
    )
    state = copy.deepcopy(defended.defense.state_dict())
    taught, law = taught_labels(defended), defended.defense.label_law()
    assert law is not None
    for label in range(data.classes):
        shown = torch.bincount(taught[data.aux.labels == label], minlength=data.classes).double()
        assert (shown / shown.sum() - law[label]).abs().max() < 4 * (0.25 / shown.sum()).sqrt()
    assert torch.equal(taught, taught_labels(defended))
    assert torch.equal(state["ids"], defended.defense.state_dict()["ids"])  # none of these rows is remembered


def _many(rows: Rows, count: int) -> Rows:
    """As many rows, under ids of their own."""
    chosen = torch.arange(count) % len(rows)
    return Rows(rows.inputs[chosen], rows.labels[chosen], torch.arange(count) + 10**6)


@pytest.mark.parametrize("needs", [Sees.SMASHED, Sees.SMASHED | Sees.HEAD])
def test_layers_of_a_defense_are_shown_with_the_heads_alone(needs: Sees) -> None:
    defended = session(defense=build_defense("disco"))
    asking = type("Asking", (Probe,), {"goal": Goal.INPUTS, "threat": Threat(needs)})()
    shown = defended.view(asking).defense
    assert ("pruner" in shown.modules()) == (Sees.HEAD in needs)


def test_goals_are_refused_where_they_make_no_sense(plain: Session) -> None:
    with pytest.raises(NotSupported, match="scored on the test rows, once"):
        plain.view(Probe(), phase="query")
    attribute = type("Attribute", (Probe,), {"goal": Goal.ATTRIBUTE})()
    with pytest.raises(NotSupported, match="train on coarse labels"):
        plain.view(attribute)
