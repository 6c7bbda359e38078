# SPDX-License-Identifier: Apache-2.0
"""What no attacker on a row's own messages can beat, by what a session's defense guarantees."""

from __future__ import annotations

from splitguard.api import Guarantee, Phase, Sees, View
from splitguard.engine.session import Session
from splitguard.privacy import candidate_bound, candidate_bound_pure, sigma

__all__ = ["candidate_limit", "victim_limit"]

#: Which epsilon of a guarantee speaks of a row's own messages in a phase.
OF_A_ROW = {Phase.TRAINING: "epsilon_rows", Phase.QUERY: "epsilon_query"}
#: What tells a training row's class, which no guarantee for inputs hides.
TELLING = Sees.LABELS | Sees.LABEL_GRAD | Sees.RETURNED_GRAD | Sees.CUT_GRAD | Sees.UPDATES


def candidate_limit(session: Session, phase: Phase, candidates: int) -> float | None:
    """The largest chance of telling which of so many candidates a row is, from the row's own messages.

    The least of what its guarantees for inputs allow: for an accounted clip and Gaussian noise
    `splitguard.privacy.candidate_bound`, for a pure epsilon between any two rows `candidate_bound_pure`. None where
    none of them speaks of this phase, or with fewer than two candidates. It bounds attackers who judge each row by
    itself and does not know its label: each of N rows that are a permutation of N candidates says something about the
    others.
    """
    if candidates < 2:
        return None
    stated = [g for g in session.guarantees if g.channel == "inputs" and getattr(g, OF_A_ROW[phase]) is not None]
    found = [_limit(g, phase, session.releases(phase.value), candidates) for g in stated]
    return min((limit for limit in found if limit is not None), default=None)


def victim_limit(session: Session, view: View) -> float | None:
    """The largest share of a view's victims that guesses of images can re-identify, by `candidate_limit`.

    A guess that is taken for the nearest of N victims names one of N. Who is shown anything that tells a label in
    training is taken to know each victim's class, and names one of its class: then it is the mean over victims.
    """
    among_all = candidate_limit(session, view.phase, len(view.ids))
    if among_all is None or view.phase is not Phase.TRAINING or not view.granted & TELLING:
        return among_all
    sizes: list[int] = session.truth(view.ids).labels.unique(return_counts=True)[1].tolist()
    # One victim of its class is named by its label alone; no limit is 0.
    return sum(size * (candidate_limit(session, view.phase, size) or 1.0) for size in sizes) / len(view.ids)


def _limit(guarantee: Guarantee, phase: Phase, releases: int | None, candidates: int) -> float | None:
    """Of one statement; the noise is the one that its epsilon follows from, whatever else is added to the row."""
    epsilon = getattr(guarantee, OF_A_ROW[phase])
    if guarantee.delta == 0 and guarantee.adjacency == "replace-one":
        return candidate_bound_pure(candidates=candidates, epsilon=epsilon)
    if "Gaussian" not in guarantee.mechanism or not guarantee.sensitivity or not releases or epsilon <= 0:
        return None
    noise = sigma(
        epsilon=epsilon,
        clip=(clip := guarantee.sensitivity / (2 if guarantee.adjacency == "replace-one" else 1)),
        releases=guarantee.T if phase is Phase.TRAINING else 1,
        delta=guarantee.delta,
        adjacency="replace-one" if guarantee.adjacency == "replace-one" else "zero-out",
    )
    return candidate_bound(candidates=candidates, sigma=noise, clip=clip, releases=releases)
