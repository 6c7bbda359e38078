# SPDX-License-Identifier: Apache-2.0
"""The scoring contract of the goals beyond inputs and labels: candidates, attributes, membership, functionality."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splitguard import seeding
from splitguard.errors import BadSetting
from splitguard.metrics.contract import AttributeScore, ChoiceScore, FunctionalityScore, MembershipScore
from splitguard.metrics.labels import (
    accuracy,
    auc,
    auc_rows,
    balanced_accuracy,
    balanced_accuracy_rows,
    cells,
    check_labels,
    tpr_at_fpr,
)
from splitguard.metrics.stats import bootstrap, clopper_pearson

__all__ = ["blind_attributes", "score_attributes", "score_choices", "score_functionality", "score_membership"]

Array = npt.NDArray[Any]
#: Room above the blind guess below which a share of it means nothing.
TINY = 1e-9


def score_choices(guess: Tensor, truth: Tensor, *, n_candidates: int) -> ChoiceScore:
    """Scores the naming of one candidate among ``n_candidates``, for each victim.

    Args:
        guess: (N,) in 0..n_candidates-1.
        truth: (N,) in 0..n_candidates-1.
        n_candidates: at least 2, and each as likely as the others.

    Raises:
        BadSetting: for other shapes, or values out of range.
    """
    if n_candidates < 2:
        raise BadSetting(f"a choice needs at least 2 candidates; got {n_candidates}")
    check_labels(guess, classes=n_candidates, what="guessed candidates")
    check_labels(truth, classes=n_candidates, what="truth")
    share, n, chance = accuracy(guess, truth), len(truth), 1 / n_candidates
    interval = clopper_pearson(round(share * n), n)
    leakage, low, high = ((p - chance) / (1 - chance) for p in (share, interval.low, interval.high))
    return ChoiceScore(share, interval.low, interval.high, chance, leakage, low, high, n)


def blind_attributes(
    attributes: Tensor, labels: Tensor, *, values: int, told: Tensor | None = None, n: int = 0
) -> Tensor:
    """(N,): the most frequent attribute among auxiliary rows, of a victim's label where that is told.

    It is what the same attacker guesses without a look at smashed data. Of equally frequent values the first is taken;
    a label without auxiliary rows is answered with the most frequent value of all.

    Args:
        attributes: (M,) of the auxiliary rows, in 0..values-1.
        labels: (M,) of the auxiliary rows.
        values: how many values the attribute has.
        told: (N,), the victims' labels, if the attacker is shown them.
        n: number of victims, where it is not.

    Raises:
        BadSetting: without auxiliary rows, or for lengths that differ.
    """
    check_labels(attributes, classes=values, what="attributes of auxiliary rows")
    if len(labels) != len(attributes):
        raise BadSetting(f"auxiliary rows need one label each; got {len(labels)} for {len(attributes)} rows")
    most = torch.bincount(attributes, minlength=values).argmax()
    if told is None:
        return most.repeat(n)
    out = most.repeat(len(told))
    for label in told.unique():
        own = attributes[labels == label]
        if len(own):
            out[told == label] = torch.bincount(own, minlength=values).argmax()
    return out


def score_attributes(
    guess: Tensor | None, scores: Tensor | None, truth: Tensor, *, blind: Tensor, values: int, seed: int = 0
) -> AttributeScore:
    """Scores inferred attributes.

    Args:
        guess: (N,) in 0..values-1; None to take the largest score.
        scores: (N, values), larger is more likely; or None.
        truth: (N,) in 0..values-1.
        blind: (N,) in 0..values-1, from `blind_attributes` for the same victims.
        values: how many values the attribute has.
        seed: draws the bootstrap, in which victims are drawn together with their blind guesses.

    Raises:
        BadSetting: for neither guess nor scores, other shapes, values out of range, or scores that are not finite.
    """
    check_labels(truth, classes=values, what="true attributes")
    if guess is None:
        if scores is None:
            raise BadSetting("attributes are scored from guessed labels, from scores, or both; got neither")
        guess = _finite(scores, (len(truth), values)).argmax(1)
    for name, column in (("guessed attributes", guess), ("blind guess", blind)):
        check_labels(column, classes=values, what=name)
        if len(column) != len(truth):
            raise BadSetting(f"{name}: wanted one for each of {len(truth)} victims; got {len(column)}")
    guess, truth, blind = guess.cpu(), truth.cpu(), blind.cpu()
    reached, base = balanced_accuracy(guess, truth), balanced_accuracy(blind, truth)
    generator = seeding.numpy_generator(seed, "attribute score")
    drawn = [cells(truth, named == truth) for named in (guess, blind)]
    interval = bootstrap(_attribute_rows, *drawn, generator=generator)
    return AttributeScore(
        attribute_accuracy=accuracy(guess, truth),
        balanced_accuracy=reached,
        blind=base,
        leakage=None if reached is None or base is None else _share(reached, base, 1.0),
        leakage_low=interval.low if interval else None,
        leakage_high=interval.high if interval else None,
        n=len(truth),
    )


def score_membership(scores: Tensor, members: Tensor, *, seed: int = 0) -> MembershipScore:
    """Scores how well members are told from strangers.

    Args:
        scores: (N, 2), or (N,) for column 1 less column 0; larger means "was trained on".
        members: (N,) bool, the truth.
        seed: draws the bootstrap.

    Raises:
        BadSetting: for other shapes, or scores that are not finite.
    """
    truth = members.cpu().long()
    margin = scores.detach().double().cpu()
    if margin.ndim == 2:
        margin = _finite(margin, (len(truth), 2))
        margin = margin[:, 1] - margin[:, 0]
    area, found = auc(margin, truth), tpr_at_fpr(margin, truth, fpr=0.01)
    generator = seeding.numpy_generator(seed, "membership score")
    interval = bootstrap(lambda drawn: 2 * auc_rows(drawn) - 1, cells(margin, truth), generator=generator)
    ones = int(truth.sum())
    limits = None if found is None else clopper_pearson(round(found * ones), ones)
    return MembershipScore(
        membership_auc=area,
        membership_tpr=found,
        membership_tpr_low=limits.low if limits else None,
        membership_tpr_high=limits.high if limits else None,
        blind=0.5,
        leakage=None if area is None else 2 * area - 1,
        leakage_low=interval.low if interval else None,
        leakage_high=interval.high if interval else None,
        n=len(truth),
    )


def score_functionality(stolen: Tensor, deployed: Tensor, blind: Tensor, *, seed: int = 0) -> FunctionalityScore:
    """Scores a stolen network, from which rows each of three networks classifies rightly.

    Args:
        stolen: (N,) bool, the server's layers behind stolen ones.
        deployed: (N,) bool, the deployment.
        blind: (N,) bool, the best that is had without the wire.
        seed: draws the bootstrap, in which a row is drawn with all three.

    Raises:
        BadSetting: for other shapes, or no rows.
    """
    if not (stolen.shape == deployed.shape == blind.shape) or stolen.ndim != 1 or len(stolen) == 0:
        shapes = ", ".join(str(tuple(hits.shape)) for hits in (stolen, deployed, blind))
        raise BadSetting(f"functionality is scored from three (N,) of hits, N of 1 or more; got {shapes}")
    hits = [column.cpu().double().numpy() for column in (stolen, deployed, blind)]
    got, had, base = (float(column.mean()) for column in hits)
    limits = clopper_pearson(int(stolen.sum()), len(stolen))
    generator = seeding.numpy_generator(seed, "functionality score")
    interval = bootstrap(_functionality_rows, *hits, generator=generator)
    leakage = _share(got, base, had)
    known = interval is not None and leakage is not None
    return FunctionalityScore(
        stolen_accuracy=got,
        stolen_low=limits.low,
        stolen_high=limits.high,
        deployed_accuracy=had,
        blind=base,
        leakage=leakage,
        leakage_low=interval.low if known and interval else None,
        leakage_high=interval.high if known and interval else None,
        n=len(stolen),
    )


def _share(value: float, blind: float, best: float) -> float | None:
    """``(value - blind) / (best - blind)``; None where nothing is left to gain."""
    return (value - blind) / (best - blind) if best - blind > TINY else None


def _attribute_rows(guess: Array, blind: Array) -> Array:
    reached, base = balanced_accuracy_rows(guess)[0], balanced_accuracy_rows(blind)[0]
    return np.where(1 - base > TINY, (reached - base) / np.maximum(1 - base, TINY), np.nan)


def _functionality_rows(stolen: Array, deployed: Array, blind: Array) -> Array:
    room = deployed.mean(axis=1) - blind.mean(axis=1)
    return np.where(room > TINY, (stolen.mean(axis=1) - blind.mean(axis=1)) / np.maximum(room, TINY), np.nan)


def _finite(scores: Tensor, shape: tuple[int, ...]) -> Tensor:
    scores = scores.detach().double().cpu()
    if tuple(scores.shape) != shape:
        raise BadSetting(f"scores must be {shape}; got {tuple(scores.shape)}")
    if not bool(torch.isfinite(scores).all()):
        raise BadSetting("scores must be finite; got NaN or infinity")
    return scores
