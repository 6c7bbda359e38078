# SPDX-License-Identifier: Apache-2.0
"""The contract also tries what an attack does while a session is trained, though a fork hides what it draws there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from splitguard.api import ATTACKS, Exchange, OnlineAttack, View
from splitguard.contract.attack import promises
from splitguard.contract.kept import tried
from splitguard.engine import toys, trial
from splitguard.engine.trial import Trial
from tests.attacks.broken import Honest, Mean

SAME, ALONE, VIEW = "same generator, same answer", "leaves global randomness alone", "leaves the view alone"


@dataclass(kw_only=True)
class Watching(Mean, OnlineAttack):
    """Watches a session and makes nothing of it."""

    def start(self, view: View, generator: torch.Generator) -> None:
        self.noise = 0.0

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        return

    def images(self, mean: Tensor) -> Tensor:
        return (mean + self.noise).clamp(0, 1)


@dataclass(kw_only=True)
class DrawsAtTheStart(Watching):
    """Draws from torch's global generator."""

    def start(self, view: View, generator: torch.Generator) -> None:
        self.noise = float(torch.rand(()))


@dataclass(kw_only=True)
class DrawsFromNumPy(Watching):
    """Draws from NumPy's global generator at each step."""

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        self.noise = float(np.random.rand())  # noqa: NPY002  # what the contract forbids


@dataclass(kw_only=True)
class WritesToData(Watching):
    """Writes to the auxiliary images at each step."""

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        view.aux.inputs.mul_(0.999)


@pytest.mark.parametrize(
    ("cls", "promise", "told"),
    [
        (DrawsAtTheStart, SAME, "images differ between two runs"),
        (DrawsFromNumPy, SAME, "images differ between two runs"),
        (DrawsFromNumPy, ALONE, "used the global generator of numpy"),
        (WritesToData, VIEW, "wrote to the task's data"),
        (Watching, SAME, ""),
        (Watching, ALONE, ""),
        (Watching, VIEW, ""),
    ],
)
def test_what_it_does_while_it_watches_is_seen(
    monkeypatch: pytest.MonkeyPatch, cls: Any, promise: str, told: str
) -> None:
    monkeypatch.setitem(ATTACKS._found, "planted", cls)
    fresh = toys._faces.__wrapped__()  # what the attack spoils, no other test sees
    monkeypatch.setattr(trial, "toy", lambda goal: fresh)
    found = tried(promise, promises("planted")[promise])
    assert found.passed == (not told), found
    assert told in found.detail


def test_a_second_run_leaves_the_global_generators_as_they_were(
    rng_untouched: Callable[[], AbstractContextManager[None]],
) -> None:
    with rng_untouched():
        Trial(Honest).again()
