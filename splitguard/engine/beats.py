# SPDX-License-Identifier: Apache-2.0
"""Whether a guess is better than that of who never saw the wire, by more than chance explains, for each goal."""

from __future__ import annotations

from splitguard.engine.promises import need
from splitguard.engine.scoring import function_hits, told_labels
from splitguard.engine.threat import Goal, Sees, on_the_wire
from splitguard.engine.trial import Run
from splitguard.metrics import (
    blind_attributes,
    blind_images,
    score_attributes,
    score_choices,
    score_functionality,
    score_labels,
    score_membership,
    ssim,
)

__all__ = ["better_than_blind"]


def better_than_blind(run: Run, goal: Goal) -> str:
    """What was reached, in words.

    For images the gain in SSIM must be two standard errors above 0, for choices the Clopper-Pearson interval above
    chance; for all other goals the interval of the leakage, by bootstrap over victims or rows, above 0.

    Raises:
        Broken: if it is no better.
    """
    view, guess, session = run.view, run.guess, run.session
    match goal:
        case Goal.INPUTS:
            return _images(run)
        case Goal.CANDIDATES:
            assert guess.choices is not None  # the contract has seen to it
            choice = score_choices(guess.choices, session.choices(view), n_candidates=len(view.candidates))
            found = f"{choice.accuracy:.2f} of {choice.n} named right, blind {choice.chance:.2f}"
            need(choice.accuracy_low > choice.chance, f"no better than a blind guess: {found}")
            return found
        case Goal.LABELS:
            labels = session.truth(view.ids).labels
            prior = session.data.classes_prior
            label = score_labels(guess.labels, guess.scores, labels, classes=view.classes, prior=prior)
            return _leaks(label.leakage, label.leakage_low, f"over {label.n} victims")
        case Goal.ATTRIBUTE:
            truth, aux, values = session.truth(view.ids).attributes, session.data.aux, view.attribute_classes
            assert truth is not None  # the toy has attributes
            assert aux.attributes is not None
            assert values is not None
            told = told_labels(session, view)
            blind = blind_attributes(aux.attributes, aux.labels, values=values, told=told, n=len(truth))
            read = score_attributes(guess.labels, guess.scores, truth, blind=blind, values=values)
            return _leaks(read.leakage, read.leakage_low, f"over {read.n} victims")
        case Goal.MEMBERSHIP:
            assert guess.scores is not None
            member = score_membership(guess.scores, session.lineup.members)
            return _leaks(member.leakage, member.leakage_low, f"over {member.n} rows")
        case Goal.FUNCTIONALITY:
            works = score_functionality(*function_hits(session, guess))
            accuracies = (
                f"stolen {works.stolen_accuracy:.2f}, blind {works.blind:.2f}, {works.deployed_accuracy:.2f} deployed"
            )
            return _leaks(works.leakage, works.leakage_low, f"accuracy {accuracies}")


def _leaks(leakage: float | None, least: float | None, over: str) -> str:
    found = f"leakage {leakage}, at least {least}, {over}"
    need(least is not None and least > 0, f"no better than a blind guess: {found}")
    return found


def _images(run: Run) -> str:
    """Mean SSIM above that of the best blind guess by two standard errors of the paired difference."""
    view, aux = run.view, run.session.data.aux
    truth = run.session.truth(view.ids)
    told = Sees.LABELS in on_the_wire(view.party, view.mode, view.labels)
    known = {"labels_known": truth.labels} if told else {"n": len(truth)}
    blind = ssim(blind_images(aux.inputs, aux.labels, **known).images, truth.inputs)
    assert run.guess.images is not None  # the contract has seen to it
    reached = ssim(run.guess.images, truth.inputs)
    gain = reached - blind
    error = float(gain.std() / len(gain) ** 0.5)
    found = f"ssim {float(reached.mean()):.3f}, blind {float(blind.mean()):.3f}"
    need(float(gain.mean()) > 2 * error and float(gain.mean()) > 1e-3, f"no better than a blind guess: {found}")
    return found
