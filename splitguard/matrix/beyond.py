# SPDX-License-Identifier: Apache-2.0
"""Compares guesses after attributes, membership and functionality with the truth."""

from __future__ import annotations

import torch
from torch import Tensor

from splitguard.api import Attack, Guess, View
from splitguard.engine.scoring import function_hits, taught_labels, told_labels
from splitguard.engine.session import Session
from splitguard.matrix.halves import scored_halves
from splitguard.matrix.judged import Judged, wanted
from splitguard.metrics import (
    AttributeScore,
    FunctionalityScore,
    MembershipScore,
    blind_attributes,
    score_attributes,
    score_functionality,
    score_membership,
)

__all__ = ["attribute", "functionality", "membership"]


def attribute(session: Session, attack: Attack, view: View, guess: Guess) -> Judged:
    """Against the same attacker without smashed data, who knows the labels where the wire shows them."""
    if guess.labels is None and guess.scores is None:
        wanted(None, attack, "labels or scores")
    truth = session.truth(view.ids).attributes
    assert truth is not None  # no view is given to an attack after attributes of data that has none
    values, aux = session.data.attribute_classes or 0, session.data.aux
    labels = None if guess.labels is None else guess.labels.detach()
    scores = None if guess.scores is None else guess.scores.detach()
    blind = torch.zeros_like(truth)  # without auxiliary rows one constant guess is as good as another
    if aux.attributes is not None and len(aux):
        blind = blind_attributes(
            aux.attributes, taught_labels(session), values=values, told=told_labels(session, view), n=len(truth)
        )

    def score(chosen: Tensor) -> AttributeScore:
        named = None if labels is None else labels[chosen]
        likely = None if scores is None else scores[chosen]
        return score_attributes(named, likely, truth[chosen], blind=blind[chosen], values=values, seed=session.seed)

    arrays = {"truth_attributes": truth.numpy(), "blind_attributes": blind.numpy()}
    arrays |= {} if labels is None else {"guess_labels": labels.numpy()}
    arrays |= {} if scores is None else {"guess_scores": scores.numpy()}
    halves = scored_halves(score, len(truth), session.seed)
    return Judged(score(torch.arange(len(truth))).as_dict(), {"halves": halves}, arrays)


def membership(session: Session, attack: Attack, view: View, guess: Guess) -> Judged:
    """Members against strangers, who were lined up in an order that only the session knows."""
    scores = wanted(guess.scores, attack, "scores (N, 2), column 1 for trained on").detach()
    truth = session.lineup.members

    def score(chosen: Tensor) -> MembershipScore:
        return score_membership(scores[chosen], truth[chosen], seed=session.seed)

    halves = scored_halves(score, len(truth), session.seed)
    arrays = {"guess_scores": scores.numpy(), "truth_members": truth.numpy(), "rows": session.lineup.rows.numpy()}
    return Judged(score(torch.arange(len(truth))).as_dict(), {"halves": halves}, arrays)


def functionality(session: Session, attack: Attack, view: View, guess: Guess) -> Judged:
    """The server's layers behind the stolen ones, on the test rows, against who trains on auxiliary rows alone."""
    found = function_hits(session, guess)
    count = len(found.stolen)

    def score(chosen: Tensor) -> FunctionalityScore:
        return score_functionality(*(column[chosen] for column in found), seed=session.seed)

    halves = scored_halves(score, count, session.seed)
    arrays = {f"right_{name}": column.numpy() for name, column in found._asdict().items()}
    arrays["test_ids"] = session.data.test.ids.numpy()
    return Judged(score(torch.arange(count)).as_dict(), {"halves": halves}, arrays)
