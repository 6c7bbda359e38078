# SPDX-License-Identifier: Apache-2.0
"""What is kept of a session's smashed data: the latest rows, no more, each with its own label."""

from __future__ import annotations

import pytest
import torch

from splitguard.building.recent import Recent
from splitguard.engine.wire import Exchange, Phase


def exchange(first: int, count: int, *, shown: bool = True) -> Exchange:
    """Rows whose smashed data and label are their id."""
    ids = torch.arange(first, first + count)
    labels = ids.clone() if shown else None
    return Exchange(0, 0, Phase.TRAINING, 0, ids, smashed=ids[:, None].float().repeat(1, 3), labels=labels)


def kept(recent: Recent) -> list[int]:
    smashed, labels = recent.draw(100, torch.Generator().manual_seed(0))
    if labels is not None:
        assert torch.equal(smashed[:, 0].long(), labels)
    return sorted(smashed[:, 0].long().tolist())


@pytest.mark.parametrize("shown", [True, False])
def test_the_latest_rows_are_kept_with_their_labels(shown: bool) -> None:
    recent = Recent(5)
    for first in (0, 3, 6):
        recent.add(exchange(first, 3, shown=shown))
    assert len(recent) == 5
    assert kept(recent) == [4, 5, 6, 7, 8]
    assert (recent.draw(2, torch.Generator())[1] is not None) is shown


def test_no_row_is_drawn_twice_and_the_generator_decides() -> None:
    recent = Recent(10)
    recent.add(exchange(0, 10))
    one, two = (recent.draw(4, torch.Generator().manual_seed(s))[0][:, 0] for s in (0, 0))
    assert torch.equal(one, two)
    assert len(one.unique()) == 4


def test_it_keeps_copies_and_frees_what_it_drops() -> None:
    recent, sent = Recent(2), exchange(0, 50)
    recent.add(sent)
    sent.smashed.zero_()
    assert kept(recent) == [48, 49]
    state = recent.state_dict()
    assert state["smashed"].untyped_storage().nbytes() == 2 * 3 * 4


def test_nothing_kept_is_nothing_drawn() -> None:
    recent = Recent(0)
    recent.add(exchange(0, 3))
    assert len(recent) == 0
    with pytest.raises(IndexError, match="nothing was kept"):
        recent.draw(1, torch.Generator())


def test_it_is_read_back_as_it_was() -> None:
    one, two = Recent(4), Recent(4)
    one.add(exchange(0, 6))
    two.load_state_dict(one.state_dict())
    for recent in (one, two):
        recent.add(exchange(6, 1))
    assert kept(one) == kept(two) == [3, 4, 5, 6]
