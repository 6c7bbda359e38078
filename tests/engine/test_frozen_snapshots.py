# SPDX-License-Identifier: Apache-2.0
"""A frozen head is one head in every mode, whatever its owner's tail does; what is sent twice counts once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splitguard.api import Labels, Mode
from splitguard.attacks.inverse_network import InverseNetwork
from splitguard.defenses.noise import Noise
from splitguard.engine.access import models_of
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import MissingKnowledge
from tests.engine import toys

WAYS: list[dict[str, Any]] = [
    {"mode": Mode.VANILLA, "cut": "pool1"},
    {"mode": Mode.U_SHAPED, "cut": ("pool1", "relu3")},
    {"mode": Mode.SPLITFED, "cut": ("pool1", "relu3"), "labels": Labels.CLIENT},
]


def session(how: dict[str, Any], *, sigma: float = 0.5, head: str = "frozen") -> Any:
    training = Training(epochs=4, batch_size=16, head=head, pretrain_epochs=1)  # type: ignore[arg-type]
    return train(toys.lenet(), toys.data(1), defense=Noise(sigma=sigma), training=training, **how)


@pytest.mark.parametrize("how", WAYS)
def test_all_releases_of_a_frozen_head_are_of_one_head(how: dict[str, Any]) -> None:
    view = session(how).view(InverseNetwork())
    assert view.releases.one_head
    mean, times = view.releases.means(view.ids)
    assert times == 4
    assert not torch.equal(mean, view.releases.last(view.ids).smashed)
    moving = session(how, head="trained").view(InverseNetwork())
    assert not moving.releases.one_head


def test_releases_that_repeat_each_other_are_one() -> None:
    view = session(WAYS[0], sigma=0.0).view(InverseNetwork())
    mean, times = view.releases.means(view.ids)
    assert times == 1
    assert torch.equal(mean, view.releases.last(view.ids).smashed)


def test_of_a_tail_above_a_frozen_head_only_the_end_is_kept() -> None:
    found = session(WAYS[1])
    models, releases = models_of(found), found.transcript.releases("training")
    ended = found.split.tail.state_dict()
    assert all(torch.equal(value, ended[name]) for name, value in models.tail(None).state_dict().items())
    with pytest.raises(MissingKnowledge, match="the tail is kept as it ended"):
        models.tail(int(releases.head[0]))
