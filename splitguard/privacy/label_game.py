# SPDX-License-Identifier: Apache-2.0
"""The game behind an empirical epsilon of labels: all that is stated of one batch in which one row's label differs.

As in `splitguard.privacy.game`, worlds and statistics are fixed in advance. Whoever plays knows every other label, sees
the statements about every row at every release, and asks which of two labels the one row has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from splitguard.errors import BadSetting
from splitguard.privacy.game import Played

__all__ = ["LABEL_STATISTICS", "LABEL_WORLDS", "Tell", "play_labels"]

Tell = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]
"""A mechanism: labels (B,), ids (B,), the release counted from 0, a generator; to the labels that are stated."""

LABEL_WORLDS = ("others alike", "others spread")
LABEL_STATISTICS = (
    "first statement", "sum of statements", "others' statements", "agreement with others", "changes of mind",
)  # fmt: skip


def play_labels(
    tell: Tell, *, classes: int, batch: int, releases: int, trials: int, generator: torch.Generator
) -> Iterator[Played]:
    """Plays each world ``trials`` times on both sides.

    In batches of B rows, row 0 has the label y on the left and y' on the right; nothing else differs:

    * others alike: y = 0, y' = K - 1, and all other labels are 0;
    * others spread: y = 0, y' = 1, and the others' labels are 1, 2, ..., over and over mod K.

    With a_tj what is stated of row j at release t and ``v(a) = [a = y] - [a = y']``, the statistics are v(a_00);
    sum_t v(a_t0); sum_t mean_j v(a_tj), j over the other rows; sum_t of the share of other rows with a_tj = a_t0; and
    how often a_t0 differs from the statement before it. One remembered answer of randomised response is told apart best
    by the first, where "a = y" has exactly e^epsilon times its probability on the right; answers drawn anew by the sum.

    Args:
        tell: the mechanism; every trial has row ids of its own, so that what it remembers of a row is fresh.
        classes: K, at least 2.
        batch: B, at least 2, as deployed.
        releases: T of a row.
        trials: of each side.
        generator: the mechanism draws from it.

    Raises:
        BadSetting: for a batch of one row, or statements that are not one class a row.
    """
    if classes < 2 or batch < 2 or releases < 1 or trials < 8:
        raise BadSetting(
            "the game needs 2 classes or more, a batch of 2 rows or more, 1 release or more and 8 trials or more; got "
            f"classes={classes}, batch={batch}, releases={releases}, trials={trials}"
        )
    first = 0
    for number, world in enumerate(LABEL_WORLDS):
        pair = (0, 1 if number else classes - 1)
        labels = (torch.arange(batch) if number else torch.zeros(batch, dtype=torch.int64)) % classes
        sides = []
        for own in pair:
            labels[0] = own
            stated = []
            for _ in range(trials):
                ids = torch.arange(first, first + batch)
                first += batch
                stated += [_stated(tell, labels, ids, release, classes, generator) for release in range(releases)]
            sides.append(_statistics(torch.stack(stated).view(trials, releases, batch), pair))
        yield Played(world, *sides)


def _stated(tell: Tell, labels: Tensor, ids: Tensor, release: int, classes: int, generator: torch.Generator) -> Tensor:
    """(B,): the statements, checked."""
    out = tell(labels.clone(), ids, release, generator)
    if out.shape != labels.shape or not bool(((out >= 0) & (out < classes)).all()):
        raise BadSetting(
            f"the mechanism was given {len(labels)} labels in 0..{classes - 1}; it must state one such label a row, "
            f"and stated {out.tolist()}"
        )
    return out.cpu().long()


def _statistics(stated: Tensor, pair: tuple[int, int]) -> Tensor:
    """(trials, 5) float64 of what was stated, (trials, T, B)."""
    votes = (stated == pair[0]).double() - (stated == pair[1]).double()
    own, others = stated[..., :1], stated[..., 1:]
    found = [
        votes[:, 0, 0],
        votes[..., 0].sum(1),
        votes[..., 1:].mean(2).sum(1),
        (others == own).double().mean(2).sum(1),
        (own[:, 1:, 0] != own[:, :-1, 0]).double().sum(1),
    ]
    return torch.stack(found, dim=1)
