# SPDX-License-Identifier: Apache-2.0
"""Attributes, membership and functionality: 0 is the blind guess, 1 is perfect, and libraries agree."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve
from torch import Tensor

from splitguard.errors import BadSetting
from splitguard.metrics import blind_attributes, score_attributes, score_functionality, score_membership


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hits(right: int, of: int) -> Tensor:
    return torch.arange(of) < right


def test_the_blind_attribute_is_the_most_frequent_one_of_the_label_where_that_is_told() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    attributes = torch.tensor([0, 0, 1, 2, 3, 3, 2])  # 2 and 3 are equally frequent: the first is taken
    assert blind_attributes(attributes, labels, values=5, told=torch.tensor([1, 0, 1])).tolist() == [2, 0, 2]
    assert blind_attributes(attributes, labels, values=5, n=2).tolist() == [0, 0]
    # A label without auxiliary rows is answered with the most frequent attribute of all.
    assert blind_attributes(attributes, labels, values=5, told=torch.tensor([2])).tolist() == [0]


def test_attributes_score_one_for_the_truth_and_exactly_zero_for_the_blind_guess() -> None:
    truth = torch.arange(40) % 4
    blind = torch.where(truth < 2, 0, 2)
    right = score_attributes(truth, None, truth, blind=blind, values=4)
    assert (right.leakage, right.leakage_low, right.balanced_accuracy, right.blind) == (1, 1, 1, 0.5)
    nothing = score_attributes(blind, None, truth, blind=blind, values=4)
    assert (nothing.leakage, nothing.leakage_low, nothing.leakage_high) == (0, 0, 0)
    wrong = score_attributes((truth + 1) % 4, None, truth, blind=blind, values=4)
    assert wrong.leakage == pytest.approx(-1)  # signed: (0 - 0.5) / (1 - 0.5)


def test_balanced_accuracy_of_attributes_is_that_of_scikit_learn() -> None:
    truth = torch.randint(3, (50,), generator=draws())
    scores = torch.randn(50, 4, generator=draws(1))
    blind = torch.zeros(50, dtype=torch.int64)
    found = score_attributes(None, scores, truth, blind=blind, values=4)
    weights = {"y_true": truth.numpy(), "y_pred": scores[:, :3].argmax(1).numpy()}
    assert found.blind == pytest.approx(1 / 3)
    limited = score_attributes(scores[:, :3].argmax(1), None, truth, blind=blind, values=4)
    assert limited.balanced_accuracy == pytest.approx(balanced_accuracy_score(**weights))
    assert limited.leakage == pytest.approx((balanced_accuracy_score(**weights) - 1 / 3) / (2 / 3))


def test_an_attribute_that_all_victims_share_says_nothing() -> None:
    truth = torch.full((6,), 2)
    found = score_attributes(truth, None, truth, blind=truth, values=4)
    assert (found.leakage, found.balanced_accuracy, found.blind, found.attribute_accuracy) == (None, None, None, 1)


def test_membership_is_scored_as_scikit_learn_scores_it() -> None:
    members = torch.arange(300) % 2 == 0
    scores = torch.randn(300, generator=draws()) + members
    found = score_membership(torch.stack([torch.zeros(300), scores], 1), members)
    area = roc_auc_score(members.numpy(), scores.numpy())
    assert found.membership_auc == pytest.approx(area)
    assert found.leakage == pytest.approx(2 * area - 1)
    fpr, tpr, _ = roc_curve(members.numpy(), scores.numpy(), drop_intermediate=False)
    assert found.membership_tpr == pytest.approx(tpr[fpr <= 0.01].max())
    assert found.leakage_low is not None
    assert found.leakage_high is not None
    assert found.leakage_low < 2 * 0.760 - 1 < found.leakage_high  # Phi(1 / sqrt 2) is the AUC of this law
    assert found.membership_tpr is not None
    assert found.membership_tpr_low is not None
    assert found.membership_tpr_high is not None
    assert found.membership_tpr_low < found.membership_tpr < found.membership_tpr_high


def test_the_sign_of_a_membership_score_is_fixed() -> None:
    members = torch.tensor([True] * 5 + [False] * 5)
    right = torch.stack([(~members).float(), members.float()], 1)
    assert score_membership(right, members).leakage == 1
    assert score_membership(right.flip(1), members).leakage == -1
    assert score_membership(torch.zeros(10, 2), members).leakage == 0
    assert score_membership(members.float(), members).leakage == 1
    assert score_membership(members.float(), torch.ones(10, dtype=torch.bool)).leakage is None


def test_functionality_is_the_share_of_the_way_from_blind_to_deployed() -> None:
    found = score_functionality(hits(70, 100), hits(90, 100), hits(50, 100))
    assert (found.stolen_accuracy, found.deployed_accuracy, found.blind) == (0.7, 0.9, 0.5)
    assert found.leakage == pytest.approx(0.5)
    assert found.leakage_low is not None
    assert found.leakage_high is not None
    assert found.leakage_low < 0.5 < found.leakage_high
    assert score_functionality(hits(50, 100), hits(90, 100), hits(50, 100)).leakage == 0
    assert score_functionality(hits(90, 100), hits(90, 100), hits(50, 100)).leakage_low == 1
    better = score_functionality(hits(95, 100), hits(90, 100), hits(50, 100)).leakage
    assert better is not None
    assert better > 1  # the defense costs the deployment what it does not cost the thief


@pytest.mark.parametrize("deployed", [50, 40])
def test_functionality_is_missing_where_the_deployment_is_no_better_than_blind(deployed: int) -> None:
    found = score_functionality(hits(70, 100), hits(deployed, 100), hits(50, 100))
    assert (found.leakage, found.leakage_low, found.leakage_high) == (None, None, None)
    assert found.stolen_accuracy == 0.7


def test_what_is_no_guess_is_refused() -> None:
    truth = torch.tensor([0, 1, 2])
    with pytest.raises(BadSetting, match="from guessed labels, from scores, or both; got neither"):
        score_attributes(None, None, truth, blind=truth, values=3)
    with pytest.raises(BadSetting, match=r"guessed attributes must lie in 0..2"):
        score_attributes(truth + 1, None, truth, blind=truth, values=3)
    with pytest.raises(BadSetting, match="blind guess: wanted one for each of 3 victims; got 2"):
        score_attributes(truth, None, truth, blind=truth[:2], values=3)
    with pytest.raises(BadSetting, match=r"scores must be \(3, 2\); got \(3, 3\)"):
        score_membership(torch.zeros(3, 3), truth > 0)
    with pytest.raises(BadSetting, match="finite"):
        score_membership(torch.full((3, 2), torch.nan), truth > 0)
    with pytest.raises(BadSetting, match=r"three \(N,\) of hits"):
        score_functionality(hits(1, 3), hits(1, 3), hits(1, 2))
    with pytest.raises(BadSetting, match="one label each; got 2 for 3 rows"):
        blind_attributes(truth, truth[:2], values=3)
