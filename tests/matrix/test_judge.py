# SPDX-License-Identifier: Apache-2.0
"""Scoring one guess: 0 for the blind guess, 1 for the truth, and marks for attacks that did not do their work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from splitguard.api import Attack, Goal, Guess, Labels, Mode, Party, Sees, Threat, View, build_defense
from splitguard.data import load
from splitguard.engine.scoring import batches_of, taught_labels
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting
from splitguard.matrix.halves import image_halves, label_halves, positions
from splitguard.matrix.judge import judge, optimisation_ratio
from splitguard.metrics import auc_of_batches, blind_images, score_labels
from splitguard.models import make_model
from tests.engine import toys


def session(*, aux: int | None = None, **how: Any) -> Session:
    data = load("faces", clients=2, train=40, aux=aux, victims={"member": 6, "query": 6})
    module = make_model("lenet", input_shape=data.input_shape, classes=2, seed=0)
    quick = Training(epochs=2, batch_size=16, optimizer={"name": "sgd", "lr": 0.02})
    return train(module, data, training=quick, **{"cut": "conv1", **how})


@pytest.fixture(scope="module")
def plain() -> Session:
    return session()


@dataclass
class Given(Attack):
    """Hands over what the test gives it; its loss is the distance to ``aim``."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED)
    aim: Tensor | None = None

    def run(self, view: View, generator: torch.Generator) -> Guess:
        raise AssertionError

    def objective(self, view: View, images: Tensor) -> Tensor | None:
        return None if self.aim is None else (images - self.aim).square().flatten(1).sum(1)


@dataclass
class GivenLabels(Given):
    """After labels."""

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(Sees.LABEL_GRAD, (Party.SERVER, Party.CLIENT))


@dataclass
class GivenChoices(Given):
    """After candidates."""

    goal: ClassVar[Goal] = Goal.CANDIDATES
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.CANDIDATES)


def toy() -> Session:
    """Victims of all classes, so that their labels say something about them."""
    return train(toys.lenet(), toys.data(2), training=Training(epochs=1, batch_size=8), cut="conv2")


@pytest.mark.parametrize(
    ("make", "phase", "told"),
    [
        (session, "training", True),
        (session, "query", True),  # all victims are faces, and everybody knows it
        (toy, "training", True),
        (toy, "query", False),  # labels of query victims never cross the wire
    ],
)
def test_the_truth_scores_one_and_the_blind_guess_exactly_zero(
    make: Callable[[], Session], phase: str, told: bool
) -> None:
    found, attack = make(), Given()
    view = found.view(attack, phase=phase)
    truth = found.truth(view.ids)
    right = judge(found, attack, view, Guess(view.ids, images=truth.inputs)).values
    assert right["leakage"] == pytest.approx(1, abs=1e-6)
    assert (right["reid"], right["recovered"], right["mse"]) == (1, 1, 0)
    known: dict[str, Any] = {"labels_known": truth.labels} if told else {"n": len(truth)}
    blind = blind_images(found.data.aux.inputs, found.data.aux.labels, seed=found.seed, **known)
    nothing = judge(found, attack, view, Guess(view.ids, images=blind.images)).values
    assert nothing["leakage"] == 0
    assert nothing["ssim"] == nothing["blind"]
    assert (right["weak"], right["loss_ratio"], right["converged"]) == (None, None, None)


def test_the_blind_guess_goes_by_the_labels_that_the_wire_showed() -> None:
    """With the true ones it would know more than anybody does, and leakage would be told too low."""
    found = train(
        toys.lenet(),
        toys.data(2),
        training=Training(epochs=1, batch_size=8),
        cut="conv2",
        defense=build_defense({"label-dp": {"epsilon": 0.5}}),
    )
    attack = Given()
    view = found.view(attack)
    released = found.transcript.releases("training")
    assert released is not None
    shown, aux = released.last(view.ids).labels, found.data.aux
    assert shown is not None
    assert not torch.equal(shown, found.truth(view.ids).labels)
    blind = blind_images(aux.inputs, taught_labels(found), labels_known=shown, seed=found.seed)
    nothing = judge(found, attack, view, Guess(view.ids, images=blind.images)).values
    assert nothing["leakage"] == 0
    assert nothing["ssim"] == nothing["blind"]


def test_what_is_kept_draws_the_victims_again(plain: Session) -> None:
    attack = Given()
    view = plain.view(attack)
    truth = plain.truth(view.ids).inputs
    arrays = judge(plain, attack, view, Guess(view.ids, images=1 - truth)).arrays
    assert torch.equal(torch.from_numpy(arrays["ids"]), view.ids)
    assert torch.equal(torch.from_numpy(arrays["truth"]), (truth * 255).round().byte())
    assert torch.equal(torch.from_numpy(arrays["guess"]), ((1 - truth) * 255).round().byte())
    assert arrays["score_ssim"].shape == (6,)


def test_an_attack_that_did_not_optimise_is_weak(plain: Session) -> None:
    view = plain.view(Given())
    truth = plain.truth(view.ids).inputs
    attack = Given(aim=truth)
    for guess, weak in ((truth, False), (1 - truth, True), (truth + 1e-5, False)):
        images = guess.clamp(0, 1)
        values = judge(plain, attack, view, Guess(view.ids, images=images, converged=True)).values
        assert values["weak"] is weak
        assert values["converged"] is True
    # Without noise the loss at the truth is 0, and the ratio is that of the two floors.
    blind = torch.full_like(truth, 0.5)
    assert optimisation_ratio(attack, view, guess=truth, truth=truth, blind=blind) == 1
    loss = attack.objective(view, blind)
    assert loss is not None
    half = (truth - blind) * 0.5 + blind  # a quarter of the blind guess's loss
    assert optimisation_ratio(attack, view, guess=half, truth=truth, blind=blind) == pytest.approx(0.01 / 0.26)
    # A guess without a finite loss proves nothing, and neither does a loss that the truth has none of.
    lost = torch.full_like(truth, torch.nan)
    assert optimisation_ratio(attack, view, guess=lost, truth=truth, blind=blind) == 0
    assert optimisation_ratio(attack, view, guess=truth, truth=lost, blind=blind) is None


@pytest.mark.parametrize(
    ("attack", "guess", "message"),
    [
        (Given(), {"labels": torch.zeros(6, dtype=torch.int64)}, "hands over images; its guess has none"),
        (GivenChoices(), {"images": torch.zeros(6, 1, 25, 25)}, "hands over choices; its guess has none"),
        (Given(), {"images": torch.full((6, 1, 25, 25), 1.5)}, r"\[0, 1\]"),
        (Given(), {"images": torch.full((6, 1, 25, 25), torch.nan)}, "NaN|finite"),
    ],
)
def test_a_guess_that_is_not_one_is_refused(
    plain: Session, attack: Attack, guess: dict[str, Any], message: str
) -> None:
    view = plain.view(attack)
    with pytest.raises(BadSetting, match=message):
        judge(plain, attack, view, Guess(view.ids, **guess))
    with pytest.raises(BadSetting, match="all of them in that order"):
        judge(plain, attack, view, Guess(view.ids.flip(0), **guess))


@pytest.mark.parametrize("how", [{"labels": Labels.SERVER}, {"mode": Mode.U_SHAPED}])
def test_labels_are_scored_against_chance(how: dict[str, Any]) -> None:
    found = session(**how)
    attack = GivenLabels()
    view = found.view(attack)
    truth = found.truth(view.ids).labels
    right = judge(found, attack, view, Guess(view.ids, scores=torch.nn.functional.one_hot(truth).float())).values
    assert (right["label_auc"], right["leakage"], right["label_accuracy"]) == (1, 1, 1)
    same = judge(found, attack, view, Guess(view.ids, scores=torch.zeros(len(truth), 2))).values
    assert (same["label_auc"], same["leakage"]) == (0.5, 0)


def test_labels_are_scored_by_batch_where_the_batches_are_known() -> None:
    data = load("faces", clients=2, train=80, victims={"member": 6, "query": 6})
    module = make_model("lenet", input_shape=data.input_shape, classes=2, seed=0)
    found = train(module, data, training=Training(epochs=2, batch_size=10), cut="conv1", labels=Labels.SERVER)
    attack = GivenLabels()
    view = found.view(attack)
    truth = found.truth(view.ids).labels
    scores = torch.rand(len(truth), generator=torch.Generator().manual_seed(0))
    judged = judge(found, attack, view, Guess(view.ids, scores=scores)).values
    context = found.transcript.releases("context")
    assert context is not None
    step = {int(i): int(s) for i, s in zip(context.ids, context.step, strict=True)}
    rounds = torch.tensor([step[int(i)] for i in view.ids])
    assert len(rounds.unique()) == 4
    assert judged["label_auc_95"] == auc_of_batches(scores, truth, rounds)
    sent = train(module, data, training=Training(epochs=1, batch_size=10), cut="conv1")  # nobody needs to guess
    assert batches_of(sent, replace(view, ids=sent.data.members)) is None
    assert batches_of(found, replace(view, ids=found.data.query.ids)) is None


def test_labels_are_scored_against_chance_without_auxiliary_rows() -> None:
    found = session(aux=0, mode=Mode.U_SHAPED)
    attack = GivenLabels()
    view = found.view(attack)
    truth = found.truth(view.ids).labels
    judged = judge(found, attack, view, Guess(view.ids, scores=torch.nn.functional.one_hot(truth).float()))
    assert (judged.values["label_accuracy"], judged.values["label_auc"]) == (1, 1)
    assert (judged.values["blind"], judged.values["leakage"]) == (None, 1)
    assert judged.extra["halves"]["leakage"]["report"] == 1


def test_halves_are_disjoint_complete_and_the_same_for_every_attack() -> None:
    choose, report = positions(11, 3)
    assert sorted([*choose.tolist(), *report.tolist()]) == list(range(11))
    assert all(torch.equal(a, b) for a, b in zip(positions(11, 3), (choose, report), strict=True))
    assert [p.tolist() for p in positions(1, 0)] == [[0], [0]]


def test_leakage_on_each_half_is_its_closed_form() -> None:
    ssim, blind = torch.linspace(0.1, 0.8, 8).double(), torch.full((8,), 0.2).double()
    hits = torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 1])
    choose, report = positions(8, 5)
    halves = image_halves({"ssim": ssim, "blind": blind, "reid_pixel": hits}, 5)
    for name, chosen in (("choose", choose), ("report", report)):
        assert halves["leakage"][name] == pytest.approx((float(ssim[chosen].mean()) - 0.2) / 0.8)
        assert halves["reid_pixel"][name] == pytest.approx(float(hits[chosen].mean()))
    assert set(halves) == {"leakage", "reid_pixel"}
    scores, truth = torch.rand(8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 4)
    prior = torch.tensor([0.5, 0.5])
    on_halves = label_halves(None, scores, truth, classes=2, prior=prior, seed=5)["leakage"]
    alone = score_labels(None, scores[report], truth[report], classes=2, prior=prior)
    assert on_halves["report"] == alone.leakage
