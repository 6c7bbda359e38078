# SPDX-License-Identifier: Apache-2.0
"""What no attacker can beat, by what a session's defense guarantees."""

from __future__ import annotations

from splitguard.api import Guarantee, Phase
from splitguard.engine.session import Session
from splitguard.privacy import candidate_bound, candidate_bound_pure

__all__ = ["candidate_limit"]

#: Which epsilon of a guarantee speaks of a row's own messages in a phase.
OF_A_ROW = {Phase.TRAINING: "epsilon_rows", Phase.QUERY: "epsilon_query"}


def candidate_limit(session: Session, phase: Phase, candidates: int) -> float | None:
    """The largest chance of telling which of so many candidates a row is, from the row's own messages.

    The least of what its guarantees for inputs allow: for an accounted clip and Gaussian noise
    `splitguard.privacy.candidate_bound`, for a pure epsilon between any two rows `candidate_bound_pure`. None where
    none of them speaks of this phase.
    """
    stated = [g for g in session.guarantees if g.channel == "inputs" and getattr(g, OF_A_ROW[phase]) is not None]
    found = [_limit(g, session, phase, candidates) for g in stated]
    return min((limit for limit in found if limit is not None), default=None)


def _limit(guarantee: Guarantee, session: Session, phase: Phase, candidates: int) -> float | None:
    if guarantee.delta == 0 and guarantee.adjacency == "replace-one":
        return candidate_bound_pure(candidates=candidates, epsilon=getattr(guarantee, OF_A_ROW[phase]))
    sigma, releases = session.defense.noise_std(), session.releases(phase.value)
    if "Gaussian" in guarantee.mechanism and guarantee.sensitivity and sigma > 0 and releases:
        clip = guarantee.sensitivity / (2 if guarantee.adjacency == "replace-one" else 1)
        return candidate_bound(candidates=candidates, sigma=sigma, clip=clip, releases=releases)
    return None
