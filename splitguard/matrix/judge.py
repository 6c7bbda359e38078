# SPDX-License-Identifier: Apache-2.0
"""Compares one guess with the truth, which nobody else sees, and says whether the attack was good enough to count."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splitguard.api import Attack, Goal, Guess, Phase, View
from splitguard.data import Data, Rows
from splitguard.engine.scoring import batches_of, taught_labels, told_labels
from splitguard.engine.session import Session
from splitguard.errors import BadSetting
from splitguard.matrix.beyond import attribute, functionality, membership
from splitguard.matrix.halves import image_halves, label_halves
from splitguard.matrix.judged import Judged, wanted
from splitguard.matrix.limits import candidate_limit, victim_limit
from splitguard.matrix.record import Value
from splitguard.metrics import (
    Blind,
    Outsider,
    blind_images,
    frechet_alexnet,
    score_choices,
    score_images,
    score_labels,
    train_outsider,
)

__all__ = ["WEAK", "Judged", "judge", "optimisation_ratio"]

#: Below this ratio of losses an attack did not optimise well enough to support a claim of privacy.
WEAK = 0.9
#: The loss at the truth of a noiseless release is 0; both losses get this share of the blind guess's loss on top.
FLOOR = 1e-2


def judge(session: Session, attack: Attack, view: View, guess: Guess) -> Judged:
    """Scores a guess by its goal.

    Args:
        session: knows the truth.
        attack: its loss is asked for at the truth and at the guess, now that the guess is made.
        view: what the attack was given.
        guess: what it made of it.

    Raises:
        BadSetting: if the guess is not what its goal asks for.
    """
    if not torch.equal(guess.ids, view.ids):
        raise BadSetting(
            f"{attack.name}: a guess answers for view.ids, all of them in that order; got {len(guess.ids)} ids for "
            f"{len(view.ids)} victims"
        )
    guess = guess.cpu()
    match attack.goal:
        case Goal.INPUTS:
            judged = _images(session, attack, view, guess)
        case Goal.LABELS:
            judged = _labels(session, attack, view, guess)
        case Goal.CANDIDATES:
            judged = _choices(session, attack, view, guess)
        case Goal.ATTRIBUTE:
            judged = attribute(session, attack, view, guess)
        case Goal.MEMBERSHIP:
            judged = membership(session, attack, view, guess)
        case Goal.FUNCTIONALITY:
            judged = functionality(session, attack, view, guess)
    judged.values["converged"] = guess.converged
    judged.arrays["ids"] = view.ids.numpy()
    spent = guess.budget
    judged.extra.update(
        tuned={k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in guess.settings.items()},
        budget={**asdict(spent), "known": view.known_read},
    )
    return judged


def _images(session: Session, attack: Attack, view: View, guess: Guess) -> Judged:
    images = wanted(guess.images, attack, "images")
    truth = session.truth(view.ids)
    blind = _blind_guess(session, view, truth)
    everyone = session.data.members if view.phase is Phase.TRAINING else session.data.query.ids
    others = everyone[~torch.isin(everyone, view.ids)]
    gallery = session.truth(others).inputs if len(others) else None
    score = score_images(images, truth.inputs, blind, gallery=gallery, seed=session.seed)
    values: dict[str, Value] = score.as_dict()
    device = session.training.attack_device()  # the view's
    there = {"guess": images.to(device), "truth": truth.inputs.to(device), "blind": blind.images.to(device)}
    ratio = optimisation_ratio(attack, view, **there)
    values |= {"loss_ratio": ratio, "weak": None if ratio is None else ratio < WEAK}
    values |= _recognised(session, truth, {"": images, "_truth": truth.inputs, "_blind": blind.images})
    values["frechet_alexnet"] = frechet_alexnet(images, truth.inputs)
    values["bound"] = victim_limit(session, view)  # of `reid`
    arrays = {"guess": _bytes(images), "truth": _bytes(truth.inputs), "blind_guess": _bytes(blind.images)}
    arrays |= {f"score_{name}": v.numpy() for name, v in score.per_victim.items()}
    halves = image_halves(score.per_victim, session.seed)
    return Judged(values, {"blind_on_aux": dict(blind.ssim_on_aux), "halves": halves}, arrays)


def _blind_guess(session: Session, view: View, truth: Rows) -> Blind:
    """By the labels as the wire showed them, where it showed any."""
    told, taught = told_labels(session, view), session.data.aux.labels
    if told is not None:
        taught = taught_labels(session)
    elif session.data.victim_class is not None:  # by the task itself: nobody needs the wire to know it
        told = truth.labels
    known = None if told is None else tuple(told.tolist())
    return _blind(session.data, len(truth), known, tuple(taught.tolist()), session.seed)


@functools.lru_cache(maxsize=8)
def _blind(data: Data, n: int, told: tuple[int, ...] | None, taught: tuple[int, ...], seed: int) -> Blind:
    """Made once for all attacks on the same victims."""
    if told is None:
        return blind_images(data.aux.inputs, n=n, seed=seed)
    return blind_images(data.aux.inputs, torch.tensor(taught), labels_known=torch.tensor(told), seed=seed)


def _recognised(session: Session, truth: Rows, shown: Mapping[str, Tensor]) -> dict[str, Value]:
    """The share of images that an outside classifier takes for what their victim is; missing where there is none."""
    outsider = _outsider(session.data, session.seed)
    names = {name: f"recognised{name}" for name in shown}
    if outsider is None:
        return dict.fromkeys(names.values())
    return {names[k]: float(outsider.recognises(v, truth.labels).double().mean()) for k, v in shown.items()}


@functools.lru_cache(maxsize=4)
def _outsider(data: Data, seed: int) -> Outsider | None:
    """The outside classifier of a data set, trained once for all sessions on it."""
    return train_outsider(data.aux.inputs, data.aux.labels, classes=data.classes, seed=seed)


def optimisation_ratio(attack: Attack, view: View, *, guess: Tensor, truth: Tensor, blind: Tensor) -> float | None:
    """How near the attack came to the loss at the truth.

        (L(truth) + f) / (L(guess) + f),    f = L(blind) / 100

    with L the mean over victims of the loss that the attack minimises. About 1 or more: the guess explains what was
    sent as well as the truth does. None for attacks that do not optimise per victim, and where the truth has no finite
    loss; 0 where the guess has none.

    Args:
        attack: its `Attack.objective` is asked.
        view: what it was given.
        guess: (N, *in).
        truth: (N, *in).
        blind: (N, *in), the blind guess.
    """
    losses = []
    for images in (truth, guess, blind):
        loss = attack.objective(view, images)
        if loss is None:
            return None
        losses.append(float(loss.detach().double().mean()))
    at_truth, at_guess, at_blind = losses
    if not math.isfinite(at_truth):
        return None
    if not math.isfinite(at_guess):
        return 0.0
    floor = FLOOR * abs(at_blind) if math.isfinite(at_blind) else 0.0
    if at_guess + floor <= 0:
        return None
    return (at_truth + floor) / (at_guess + floor)


def _labels(session: Session, attack: Attack, view: View, guess: Guess) -> Judged:
    if guess.labels is None and guess.scores is None:
        wanted(None, attack, "labels or scores")
    truth = session.truth(view.ids).labels
    labels, scores = guess.labels, guess.scores
    prior = session.data.classes_prior
    known: dict[str, Any] = {"classes": view.classes, "prior": prior, "seed": session.seed}
    batches = batches_of(session, view) if view.classes == 2 and scores is not None else None
    score = score_labels(labels, scores, truth, batches=batches, **known)
    arrays = {"truth_labels": truth.numpy(), "prior": prior.numpy()}
    if labels is not None:
        arrays["guess_labels"] = labels.numpy()
    if scores is not None:
        arrays["guess_scores"] = scores.numpy()
    return Judged(dict(score.as_dict()), {"halves": label_halves(labels, scores, truth, **known)}, arrays)


def _choices(session: Session, attack: Attack, view: View, guess: Guess) -> Judged:
    choices = wanted(guess.choices, attack, "choices")
    truth = session.choices(view)
    count = len(view.candidates)
    score = score_choices(choices, truth, n_candidates=count).as_dict()
    renamed = {"accuracy": "choice_accuracy", "accuracy_low": "choice_low", "accuracy_high": "choice_high"}
    values: dict[str, Value] = {renamed.get(name, name): value for name, value in score.items()}
    values |= {"blind": score["chance"], "bound": candidate_limit(session, view.phase, count)}
    arrays = {"guess_choices": choices.numpy(), "truth_choices": truth.numpy()}
    return Judged(values, {}, arrays)


def _bytes(images: Tensor) -> npt.NDArray[np.uint8]:
    """Images in [0, 1] as 0..255, rounded."""
    return (images.detach().float().clamp(0, 1) * 255).round().byte().numpy()
