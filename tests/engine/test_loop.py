# SPDX-License-Identifier: Apache-2.0
"""What the loop tells on the way, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.engine import deploy
from splitguard.engine.loop import Progress
from splitguard.engine.threat import Sees
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting
from tests.engine import toys
from tests.engine.test_seats import reader


@pytest.mark.parametrize(("batch_size", "wanted"), [(46, [1, 2]), (16, [3, 4, 6]), (12, [4, 8])])
def test_progress_ends_with_the_last_round(batch_size: int, wanted: list[int]) -> None:
    told: list[Progress] = []
    training = Training(epochs=2, batch_size=batch_size)
    train(toys.lenet(), toys.data(1), training=training, cut="conv2", progress=told.append)
    assert [where.done for where in told] == wanted
    assert told[-1].done == told[-1].total
    assert told[-1].epoch == 1
    assert told[-1].loss > 0


def test_each_loss_is_checked_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []
    isfinite = torch.isfinite

    def spy(values: Tensor) -> Tensor:
        checked.append(len(values))
        return isfinite(values)

    monkeypatch.setattr(torch, "isfinite", spy)
    train(toys.lenet(), toys.data(1), training=Training(epochs=1, batch_size=1), cut="conv2")
    assert checked == [20, 20, 20]  # of 46; at the end the latest ones


class Centred(nn.Module):
    """A LeNet that begins by working in place on its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = toys.lenet()

    def forward(self, x: Tensor) -> Any:
        """Of (N, 1, 8, 8)."""
        return self.rest(x.sub_(0.5))


def test_a_network_that_works_in_place_writes_into_no_data_and_into_no_query() -> None:
    data, twin = toys.data(1), toys.data(1)
    run = train(Centred(), data, training=Training(epochs=1, batch_size=8), cut="rest.conv2")
    for name, rows in data.parts.items():
        assert torch.equal(rows.inputs, twin.parts[name].inputs), name
    view = run.view(reader(Sees.SMASHED | Sees.QUERY))
    own = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    first, again = (view.query(own, torch.Generator()) for _ in range(2))
    assert torch.equal(first, again)


def test_augmenting_what_is_no_image_is_refused_before_the_head_is_pre_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    images = toys.data(1)
    parts: dict[str, Any] = {k: replace(rows, inputs=rows.inputs[:, 0, 0, :4]) for k, rows in images.parts.items()}
    flat = replace(images, **parts)
    monkeypatch.setattr(deploy, "pretrain", lambda *_: pytest.fail("it was pre-trained first"))
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    training = Training(epochs=1, head="frozen", augment={"flip": True})
    with pytest.raises(BadSetting, match=r"flips and crops need images \(N, C, H, W\); got \(0, 4\)"):
        train(model, flat, training=training, cut="0")
