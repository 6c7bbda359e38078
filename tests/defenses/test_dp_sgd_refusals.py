# SPDX-License-Identifier: Apache-2.0
"""DP-SGD on the head: what it refuses, and what to do instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import (
    ATTACKS,
    BadSetting,
    Labels,
    NotSupported,
    Profile,
    Stack,
)
from splitguard.defenses.dp_sgd_head import DpSgdHead
from splitguard.engine.bench import Bench
from splitguard.engine.train import train
from splitguard.engine.training import Training
from tests.defenses.test_dp_sgd_head import session
from tests.engine import toys


def test_batchnorm_is_refused_by_name() -> None:
    with pytest.raises(NotSupported, match=r"in block1\.norm: .*BatchNorm.* Use GroupNorm in place of BatchNorm"):
        train(toys.resnet(), toys.data(1), cut="block1", defense=DpSgdHead(), training=Training(epochs=1))


def test_parameters_outside_of_layers_are_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.flatten, self.fc = nn.Flatten(), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.flatten(x * self.scale))
            return out

    with pytest.raises(NotSupported, match="holds parameters outside of any layer"):
        train(Scaled(), toys.data(1), cut="flatten", defense=DpSgdHead(), training=Training(epochs=1))


def test_a_frozen_head_and_a_second_optimizer_are_refused() -> None:
    with pytest.raises(NotSupported, match="the head is frozen, so private rows never train it"):
        Bench(DpSgdHead(), labels=Labels.SENT, head_frozen=True)
    with pytest.raises(NotSupported, match="dp-sgd-head and dp-sgd-head each bring"):
        session(Stack([DpSgdHead(), DpSgdHead()]))
    with pytest.raises(NotSupported, match="call bind before optimizer"):
        DpSgdHead().optimizer(nn.Linear(1, 1), lambda ps: torch.optim.SGD(ps, lr=1.0))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"epsilon": 1.0, "noise": 1.0}, "both given"),
        ({"epsilon": 0.0}, "epsilon must lie above 0"),
        ({"noise": -1.0}, "noise must lie above 0"),
        ({"clip": 0.0}, "clip must lie above 0"),
        ({"clip": "none"}, "none with noise: 0"),
        ({"clip": "none", "noise": 1.0}, "none with noise: 0"),
        ({"delta": 1.0}, "delta must lie above 0 and below 1"),
        ({"adjacency": "add-remove"}, "add-remove"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        DpSgdHead(**settings)


def test_a_client_that_replaces_its_own_gradients_is_refused_beside_it() -> None:
    """The private step would overwrite them in silence."""
    attack = ATTACKS.build("active-completion")
    with pytest.raises(NotSupported, match="active-completion replaces the gradients"):
        session(DpSgdHead(noise=1.0), labels=Labels.SERVER, active=attack, profile=Profile.ACTIVE)
