# SPDX-License-Identifier: Apache-2.0
"""The fed server colludes with the server: it reads what crossed the cut beside what was sent to be averaged."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from splitguard.engine.threat import Goal, Mode, Party, Profile, Sees, Threat
from splitguard.errors import NotSupported
from tests.engine.test_updates import TAIL, Reader, trained


class Colluding(Reader):
    """Reads what crossed the cut beside what was sent to be averaged."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(
        Sees.UPDATES | Sees.SMASHED | Sees.HEAD | Sees.BODY, (Party.FED_SERVER,), uses=Sees.RETURNED_GRAD
    )


@pytest.mark.parametrize("how", [TAIL, {"mode": Mode.SPLITFED, "cut": "conv2"}], ids=["tail at clients", "one cut"])
def test_it_colludes_so_that_updates_explain_what_the_server_was_sent(how: dict[str, Any]) -> None:
    """The head handed out before a round makes exactly what each client then sends, and the bytes of both fit."""
    session = trained(2, how=how, epochs=1)
    view = session.view(Colluding(), profile=Profile.BLACK_BOX)
    by_round = {(u.client, u.step): u for u in view.updates.sent}
    rows = view.releases
    assert len(rows) == len(view.ids) == 6
    for n in range(len(rows)):
        update = by_round[int(rows.client[n]), int(rows.step[n]) + 1]
        assert int(rows.ids[n]) in update.ids.tolist()
        head = view.head()
        state = {k.removeprefix("head."): v for k, v in update.before.items() if k.startswith("head.")}
        head.load_state_dict(state)
        made = head(session.truth(rows.ids[n : n + 1]).inputs)[0]
        torch.testing.assert_close(made, rows.smashed[n], rtol=1e-5, atol=1e-6)
    moved = [u for u in view.updates.sent if any(not torch.equal(u.before[k], u.after[k]) for k in u.before)]
    assert len(moved) == len(by_round)
    assert view.body() is not None
    assert (rows.returned_grad is not None) == (how is TAIL)


def test_labels_that_the_server_is_given_are_no_goal_of_a_fed_server_that_colludes() -> None:
    session = trained(2, how={"mode": Mode.SPLITFED, "cut": "conv2"})
    with pytest.raises(NotSupported, match=r"the fed server\) is given the labels"):
        session.view(Reader())
