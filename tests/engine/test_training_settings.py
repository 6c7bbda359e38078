# SPDX-License-Identifier: Apache-2.0
"""The settings of a training are checked when they are written, not in every cell that uses them."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from splitguard.engine.training import Training
from splitguard.errors import SplitguardError

SGD = {"name": "sgd", "lr": 0.1}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"augment": {"flipp": True}}, r"unknown augmentation 'flipp'\. Did you mean 'flip'"),
        ({"augment": {"flip": 1}}, "flip must be true or false; got 1"),
        ({"augment": {"crop": -1}}, "crop must be a whole number of pixels"),
        ({"augment": "flip"}, "augment is written as {flip: true, crop: 4}; got 'flip'"),
        ({"augment": {3: True}}, "augment is written as"),
        ({"optimizer": 3}, "optimizer is {name: ..., settings} or one such mapping for each of"),
        ({"optimizer": "name"}, "optimizer is {name: ..., settings}"),
        ({"optimizer": {"head": 3}}, "optimizer is {name: ..., settings}"),
        ({"optimizer": {"head": {"lr": 0.1}}}, "optimizer is {name: ..., settings}"),
        ({"optimizer": {"head": SGD, "tail": 3}}, "optimizer is {name: ..., settings}"),
        ({"optimizer": {"name": "adam", "betas": [0.9]}}, "optimizer 'adam' with {'betas': "),
        ({"schedule": {"body": None}}, "schedule is {name: ..., settings}"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SplitguardError, match=said):
        Training.parse(settings)


@pytest.mark.parametrize("augment", [None, {}, {"flip": True, "crop": 4}, {"crop": 10**9}])
def test_an_augmentation_that_fits_is_tried_without_an_image(augment: Any) -> None:
    assert Training(augment=augment).augment == augment


@pytest.mark.parametrize("order", [("head", "body"), ("body", "head")])
def test_a_part_without_an_optimizer_of_its_own_takes_the_heads_whatever_is_written_first(order: list[str]) -> None:
    own = {"head": SGD, "body": {"name": "adam"}}
    training = Training(optimizer={part: own[part] for part in order})
    made = training.make_optimizer("tail", list(nn.Linear(1, 1).parameters()))
    assert type(made).__name__ == "SGD"
