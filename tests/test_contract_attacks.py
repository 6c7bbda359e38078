# SPDX-License-Identifier: Apache-2.0
"""Every registered attack passes the contract, and for each promise an attack that breaks it is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from splitguard.api import ATTACKS, Goal, Guess, Labels, Mode, OnlineAttack, Party, Seat, Sees, Threat, View
from splitguard.contract.attack import check_attack, promises
from splitguard.contract.kept import tried
from splitguard.engine import toys, trial
from splitguard.engine.trial import Trial
from splitguard.errors import UnknownName
from tests.attacks.broken import BREAKERS, Honest, InPlace, InTheHead, Mean, NeedsSetting


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_registered_attack_passes(name: str) -> None:
    found = check_attack(name)
    assert [check.name for check in found] == list(promises(name))
    broken = [f"{check.name}: {check.detail}" for check in found if not check.passed]
    assert not broken, "\n".join(broken)


def test_an_unknown_name_is_answered_with_near_misses() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'gradient-norm'"):
        check_attack("gradiant-norm")


@pytest.fixture
def own_toy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Registers a class as "planted"; what it spoils, no other test sees."""

    def plant(cls: Any) -> None:
        monkeypatch.setitem(ATTACKS._found, "planted", cls)
        if cls in (InPlace, InTheHead):
            fresh = toys._faces.__wrapped__()
            monkeypatch.setattr(trial, "toy", lambda goal: fresh)
            monkeypatch.setattr(trial, "_trained", trial._train)

    return plant


@pytest.mark.parametrize(("cls", "promise", "told"), BREAKERS, ids=[cls.__name__ for cls, *_ in BREAKERS])
def test_a_broken_promise_is_caught(own_toy: Callable[[Any], None], cls: Any, promise: str, told: str) -> None:
    own_toy(cls)
    found = tried(promise, promises("planted")[promise])
    assert not found.passed, found
    assert told in found.detail


def test_every_promise_has_somebody_who_breaks_it() -> None:
    assert {promise for _, promise, _ in BREAKERS} == set(promises("none"))


def test_an_honest_attack_passes(own_toy: Callable[[Any], None]) -> None:
    own_toy(Honest)
    assert [check for check in check_attack("planted") if not check.passed] == []


def test_what_does_not_build_is_told_once(own_toy: Callable[[Any], None]) -> None:
    own_toy(NeedsSetting)
    [found] = check_attack("planted")
    assert (found.name, found.passed) == ("builds with its defaults", False)


def test_quick_settings_are_for_the_contract_alone(own_toy: Callable[[Any], None]) -> None:
    @dataclass(kw_only=True)
    class Slow(Honest):
        """Takes minutes.

        Args:
            scale: too large.
            shape: nothing.
        """

        scale: float = 1e9
        quick: ClassVar[dict[str, Any]] = {"scale": 2.0}

        def run(self, view: View, generator: torch.Generator) -> Guess:
            assert self.scale == 2
            return super().run(view, generator)

    own_toy(Slow)
    found = check_attack("planted")
    assert [check for check in found if not check.passed] == []
    assert "scale=1000000000.0" in found[0].detail


def test_the_toy_is_one_on_which_the_attack_is_possible() -> None:
    def toy(name: str) -> tuple[Mode, Labels]:
        return Trial(lambda: ATTACKS.build(name)).deployment

    assert toy("white-box-inversion") == (Mode.VANILLA, Labels.SENT)
    assert toy("gradient-norm") == (Mode.U_SHAPED, Labels.CLIENT)


def test_where_nobody_can_mount_it_the_reasons_are_told(own_toy: Callable[[Any], None]) -> None:
    @dataclass(kw_only=True)
    class Nobody(Mean):
        """A client that wants the server's layers."""

        threat: ClassVar[Threat] = Threat(Sees.BODY, (Party.CLIENT,))

    own_toy(Nobody)
    found = tried("better", promises("planted")["better than a blind guess"])
    assert "vanilla with labels sent: the client never sees: body" in found.detail


def test_an_attack_beside_the_session_watches_one_of_its_own(own_toy: Callable[[Any], None]) -> None:
    @dataclass(kw_only=True)
    class Watcher(OnlineAttack):
        """Keeps the last release of each row, and matches candidates against it."""

        goal: ClassVar[Goal] = Goal.CANDIDATES
        threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.QUERY | Sees.CANDIDATES)

        def start(self, view: View, generator: torch.Generator) -> None:
            self.seen: dict[int, Tensor] = {}

        def observe(self, exchange: Any, view: View, generator: torch.Generator) -> None:
            self.seen |= {int(i): z.detach() for i, z in zip(exchange.ids, exchange.smashed, strict=True)}

        def run(self, view: View, generator: torch.Generator) -> Guess:
            view.need(self.threat.needs)
            assert self.seat is Seat.BESIDE
            sent = torch.stack([self.seen[int(i)] for i in view.ids]).flatten(1)
            made = view.query(view.candidates, generator).flatten(1)
            return Guess(view.ids, choices=torch.cdist(sent, made).argmin(1))

    own_toy(Watcher)
    assert [check for check in check_attack("planted") if not check.passed] == []
