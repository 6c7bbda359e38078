# SPDX-License-Identifier: Apache-2.0
"""Attributes, membership and functionality, judged against a known truth and through a whole matrix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from splitguard.api import Attack, Goal, Guess, Labels, Mode, Sees, Threat, View
from splitguard.engine.session import Session
from splitguard.engine.toys import toy
from splitguard.engine.train import train
from splitguard.errors import BadSetting
from splitguard.matrix import Matrix
from splitguard.matrix.judge import judge
from splitguard.metrics import blind_attributes
from splitguard.models import make_model
from tests.matrix.toys import QUICK


@dataclass
class Given(Attack):
    """Hands over what the test gives it."""

    goal: ClassVar[Goal] = Goal.ATTRIBUTE
    threat: ClassVar[Threat] = Threat(Sees.SMASHED)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        raise AssertionError


@dataclass
class GivenMembers(Given):
    """After membership."""

    goal: ClassVar[Goal] = Goal.MEMBERSHIP


@pytest.fixture(scope="module")
def coarse() -> Session:
    task = toy(Goal.ATTRIBUTE)
    module = make_model("lenet", input_shape=task.data.input_shape, classes=2, seed=0)
    return train(module, task.data, cut="conv1", training=task.training)


@pytest.mark.parametrize(("phase", "blind"), [("training", 0.2), ("query", 0.1)])
def test_the_blind_guess_at_an_attribute_knows_the_labels_that_crossed(
    coarse: Session, phase: str, blind: float
) -> None:
    """Of ten digits, evenly drawn: one of five is right for who knows the half, one of ten for who does not."""
    attack, aux = Given(), coarse.data.aux
    view = coarse.view(attack, phase=phase)
    truth = coarse.truth(view.ids)
    assert truth.attributes is not None
    assert aux.attributes is not None
    right = judge(coarse, attack, view, Guess(view.ids, labels=truth.attributes)).values
    assert (right["leakage"], right["attribute_accuracy"], right["n"]) == (1, 1, 40)
    assert right["blind"] == pytest.approx(blind)
    told = truth.labels if phase == "training" else None
    guess = blind_attributes(aux.attributes, aux.labels, values=10, told=told, n=40)
    assert judge(coarse, attack, view, Guess(view.ids, labels=guess)).values["leakage"] == 0
    with pytest.raises(BadSetting, match="hands over labels or scores; its guess has none"):
        judge(coarse, attack, view, Guess(view.ids))


def test_membership_is_judged_by_who_really_was_a_member(coarse: Session) -> None:
    attack = GivenMembers()
    view = coarse.view(attack)
    members = coarse.lineup.members
    judged = judge(coarse, attack, view, Guess(view.ids, scores=torch.stack([~members, members], 1).double()))
    assert (judged.values["membership_auc"], judged.values["leakage"], judged.values["n"]) == (1, 1, 80)
    assert set(judged.arrays["rows"][members.numpy()]) == set(coarse.data.members.tolist())
    halves = judged.extra["halves"]["leakage"]
    assert (halves["choose"], halves["report"]) == (1, 1)
    with pytest.raises(BadSetting, match=r"scores \(N, 2\), column 1 for trained on; its guess has none"):
        judge(coarse, attack, view, Guess(view.ids))


def test_a_matrix_scores_the_three_goals_and_sums_them_up(tmp_path: Path) -> None:
    digits = load_digits()
    path = tmp_path / "digits.npz"
    images = (digits.images * 15.9).astype(np.uint8)
    np.savez(path, train_images=images[:700], train_labels=digits.target[:700])
    sizes = {"train": 200, "test": 100, "aux": 100, "victims": {"member": 20, "query": 20}}
    matrix = {
        "data": {"name": "npz", "path": str(path), "coarse": [0, 0, 0, 0, 0, 1, 1, 1, 1, 1], **sizes},
        "model": "lenet",
        "mode": ["vanilla", "u-shaped"],
        "cut": "conv1",
        "train": {"epochs": 3, "batch_size": 16},
        "attack": [{"attribute": {"components": 16, "hidden": 0}}, {"membership": {"references": 0}}, "toy-thief"],
    }
    results = Matrix(matrix).run(tmp_path / "run", progress=False)
    frame = results.frame
    assert (frame["status"] == "ok").all(), frame["reason"].tolist()
    counts = frame.groupby("goal")["phase"].apply(sorted).to_dict()
    assert counts == {
        "attribute": ["query", "query", "training", "training"],
        "functionality": ["training", "training"],
        "membership": ["training", "training"],
    }
    read = frame[frame["goal"] == "attribute"]
    assert (read["leakage"] > 0.3).all()
    assert set(read["profile"]) == {"query"}
    stolen = frame[frame["goal"] == "functionality"]
    assert (stolen["stolen_accuracy"] == stolen["accuracy"]).all()
    assert results.summary["worst_attribute"].notna().all()
    assert results.summary["worst_membership"].notna().all()
    assert results.summary["worst_input"].isna().all()


def test_an_attribute_of_data_without_one_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    results = Matrix({**QUICK, "attack": "attribute"}).run(tmp_path, progress=False)
    assert set(results.frame["status"]) == {"refused"}
    assert "train on coarse labels" in results.frame["reason"].iloc[0]
    assert results.frame["accuracy"].isna().all()


def test_an_outside_classifier_stands_beside_the_reconstruction(coarse: Session) -> None:
    inputs = type("Inputs", (Given,), {"goal": Goal.INPUTS})()
    view = coarse.view(inputs)
    truth = coarse.truth(view.ids).inputs
    seen = judge(coarse, inputs, view, Guess(view.ids, images=truth)).values
    assert seen["recognised"] == seen["recognised_truth"]
    assert isinstance(seen["recognised"], float)
    assert seen["recognised"] > 0.7
    noise = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0))
    blurred = judge(coarse, inputs, view, Guess(view.ids, images=noise)).values
    assert isinstance(blurred["recognised"], float)
    assert blurred["recognised"] < seen["recognised"]
    assert blurred["recognised_truth"] == seen["recognised_truth"]
    assert seen["frechet_alexnet"] is None  # 40 images are no set


def test_u_shaped_functionality_needs_a_tail(coarse: Session) -> None:
    data = coarse.data
    module = make_model("lenet", input_shape=data.input_shape, classes=2, seed=0)
    hidden = train(
        module,
        data,
        mode=Mode.U_SHAPED,
        cut=("conv1", "fc2"),
        labels=Labels.CLIENT,
        training=toy(Goal.ATTRIBUTE).training,
    )
    thief = type("Thief", (Given,), {"goal": Goal.FUNCTIONALITY, "threat": Threat(Sees.SMASHED)})()
    view = hidden.view(thief)
    with pytest.raises(BadSetting, match="stolen tail"):
        judge(hidden, thief, view, Guess(view.ids, head=hidden.split.head))
    values = judge(hidden, thief, view, Guess(view.ids, head=hidden.split.head, tail=hidden.split.tail)).values
    assert values["stolen_accuracy"] == values["deployed_accuracy"] == hidden.accuracy
