# SPDX-License-Identifier: Apache-2.0
"""When an attack begins: by the loss where labels are seen, else by the returned gradient."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from splitguard.building.late_start import LateStart
from splitguard.engine.wire import Exchange, Phase
from splitguard.errors import BadSetting


def logits(loss: float) -> Tensor:
    """Of two classes, so that the cross-entropy of class 0 is ``loss``."""
    share = torch.tensor(-loss).exp()
    return torch.stack([share.log(), (1 - share).log()])[None].repeat(4, 1)


def exchange(loss: float, *, shown: bool = True) -> Exchange:
    """With identity for a body: the smashed data are logits."""
    labels = torch.zeros(4, dtype=torch.int64) if shown else None
    return Exchange(0, 0, Phase.TRAINING, 0, torch.arange(4), smashed=logits(loss), labels=labels)


def answers(share: float, losses: Sequence[float], *, shown: bool = True) -> list[bool]:
    late = LateStart(share)
    return [late(exchange(loss, shown=shown), lambda z: z) for loss in losses]


def test_it_begins_once_the_smoothed_loss_has_fallen_by_the_share() -> None:
    """1, 1, then .5: smoothed 1, 1, .9, .82, .756, and from 25 % below the highest, that is .75, on: .7048."""
    assert answers(0.25, [1, 1, 0.5, 0.5, 0.5, 0.5]) == [False] * 5 + [True]
    late = LateStart(0.25)
    for loss in (1, 1, 0.5, 0.5, 0.5, 0.5):
        late(exchange(loss), lambda z: z)
    assert late.signal == pytest.approx([0.7048, 1.0], rel=1e-5)


def test_a_loss_that_rises_or_stands_does_not_begin_and_the_highest_value_counts() -> None:
    assert answers(0.05, [1, 1, 1, 1.2, 1.5]) == [False] * 5
    # Smoothed 1, 1.2, 1.16, 1.128: 6 % below its highest, though above where it was first.
    assert answers(0.05, [1, 2, 1, 1]) == [False, False, False, True]


def test_what_has_begun_goes_on_and_0_begins_at_once() -> None:
    assert answers(0.05, [1, 0.5, 3, 3]) == [False, True, True, True]
    assert answers(0.0, [1, 2]) == [True, True]


def test_where_the_loss_is_not_seen_it_begins() -> None:
    assert answers(0.5, [1, 1], shown=False) == [True, True]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(BadSetting, match=r"a share in \[0, 1\) of the loss to fall"):
        LateStart(share)
