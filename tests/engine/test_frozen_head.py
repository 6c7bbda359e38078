# SPDX-License-Identifier: Apache-2.0
"""A frozen head stays as it is and is not handed about; what it is pre-trained on must be there."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from splitguard.engine.cut import split
from splitguard.engine.threat import Mode
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting
from tests.engine import toys

TAIL = ("conv2", "fc1")


def frozen(**settings: Any) -> Training:
    return Training(**{"epochs": 1, "batch_size": 8, "head": "frozen", "pretrain_epochs": 0, **settings})


@pytest.mark.parametrize("settings", [{"pretrain_epochs": None}, {"pretrain_epochs": 1}])
def test_without_auxiliary_rows_there_is_nothing_to_pre_train_on(settings: dict[str, Any]) -> None:
    data, model = toys.data(2), toys.lenet()
    data = dataclasses.replace(data, aux=data.aux[:0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(BadSetting, match=r"head: frozen .* needs auxiliary rows, or pretrain_epochs: 0"):
        train(model, data, training=frozen(**settings), cut="conv2")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("settings", [{"pretrain_epochs": 0}, {"pretrain_epochs": None, "epochs": 0}])
@pytest.mark.parametrize("aux", [0, 24])
def test_no_pre_training_reaches_no_accuracy(settings: dict[str, Any], aux: int) -> None:
    data = toys.data(2)
    data = dataclasses.replace(data, aux=data.aux[:aux])
    assert train(toys.lenet(), data, training=frozen(**settings), cut="conv2").aux_accuracy is None


def test_averaging_moves_no_bit_of_a_frozen_head() -> None:
    model, data = toys.resnet(), toys.data(3, sizes=(20, 15, 11))
    before = {k: v.clone() for k, v in split(model, ("block1", "pool")).head.state_dict().items()}
    run = train(model, data, training=frozen(average_every=1), mode=Mode.SPLITFED, cut=("block1", "pool"))
    assert all(torch.equal(value, before[name]) for name, value in run.split.head.state_dict().items())


def test_a_tail_is_handed_on_though_the_head_is_frozen() -> None:
    how = {"mode": Mode.U_SHAPED, "cut": TAIL}
    plain = frozen(optimizer={"name": "sgd", "lr": 0.05})
    run = train(toys.lenet(), toys.data(2), training=plain, **how)  # type: ignore[arg-type]
    handovers, tail = 5, nn.Linear(16, 3)  # six batches, in turn
    assert run.costs["bytes_handover"] == handovers * 4 * sum(p.numel() for p in tail.parameters())
    assert train(toys.lenet(), toys.data(2), training=plain, cut="conv2").costs["bytes_handover"] == 0
