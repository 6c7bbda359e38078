# SPDX-License-Identifier: Apache-2.0
"""The contract looks at guesses after attributes, membership and functionality too, and catches what is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from splitguard.api import ATTACKS, Attack, Goal, Guess, Sees, Threat, View
from splitguard.contract.attack import check_attack, promises
from splitguard.contract.kept import tried

IN_RANGE, BLIND, SAME = "answers for every victim, in range", "better than a blind guess", "same generator, same answer"


@dataclass(kw_only=True)
class OneForAll(Attack):
    """Answers with one attribute for all."""

    goal: ClassVar[Goal] = Goal.ATTRIBUTE
    threat: ClassVar[Threat] = Threat(Sees.SMASHED)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        view.need(self.threat.needs)
        return Guess(view.ids, labels=torch.zeros(len(view.ids), dtype=torch.int64))


@dataclass(kw_only=True)
class OutOfRange(OneForAll):
    """Names an attribute that there is not."""

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, labels=torch.full((len(view.ids),), view.attribute_classes or 0))


@dataclass(kw_only=True)
class AsIs(Attack):
    """Takes every row for a member."""

    goal: ClassVar[Goal] = Goal.MEMBERSHIP
    threat: ClassVar[Threat] = Threat(Sees.SMASHED)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        view.need(self.threat.needs)
        return Guess(view.ids, scores=torch.ones(len(view.ids), 2))


@dataclass(kw_only=True)
class OneColumn(AsIs):
    """Hands over one column."""

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, scores=torch.ones(len(view.ids), 1))


@dataclass(kw_only=True)
class Untrained(Attack):
    """Hands over a head of other weights."""

    goal: ClassVar[Goal] = Goal.FUNCTIONALITY
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.ARCHITECTURE)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        view.need(self.threat.needs)
        return Guess(view.ids, head=self.head(view, generator))

    def head(self, view: View, generator: torch.Generator) -> nn.Module | None:
        return view.blank_head(generator)


@dataclass(kw_only=True)
class Headless(Untrained):
    """Hands over no head."""

    def head(self, view: View, generator: torch.Generator) -> nn.Module | None:
        return None


@dataclass(kw_only=True)
class Misfit(Untrained):
    """Hands over a head that gives something else."""

    def head(self, view: View, generator: torch.Generator) -> nn.Module | None:
        return nn.Flatten()


@dataclass(kw_only=True)
class Unseeded(Untrained):
    """Draws weights from a generator of its own."""

    def head(self, view: View, generator: torch.Generator) -> nn.Module | None:
        own = torch.Generator()
        own.seed()
        return view.blank_head(own)


@dataclass(kw_only=True)
class Thief(Untrained):
    """Hands over the client's own head."""

    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.HEAD)

    def head(self, view: View, generator: torch.Generator) -> nn.Module | None:
        return view.head()


@pytest.mark.parametrize(
    ("cls", "promise", "told"),
    [
        (OneForAll, BLIND, "no better than a blind guess: leakage"),
        (OutOfRange, IN_RANGE, "labels must be finite and in [0, 9]"),
        (AsIs, BLIND, "no better than a blind guess: leakage 0.0"),
        (OneColumn, IN_RANGE, "scores must have shape (80, 2); got (80, 1)"),
        (Untrained, BLIND, "no better than a blind guess: leakage"),
        (Headless, IN_RANGE, "a stolen head was not handed over"),
        (Misfit, IN_RANGE, "what the stolen head makes of 2 rows must have shape (2, 8, 8, 8); got (2, 64)"),
        (Unseeded, SAME, "the stolen head differs between two runs"),
    ],
)
def test_what_is_no_guess_is_caught(monkeypatch: pytest.MonkeyPatch, cls: Any, promise: str, told: str) -> None:
    monkeypatch.setitem(ATTACKS._found, "planted", cls)
    found = tried(promise, promises("planted")[promise])
    assert not found.passed, found
    assert told in found.detail


def test_a_thief_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS._found, "planted", Thief)
    assert [check for check in check_attack("planted") if not check.passed] == []
