# SPDX-License-Identifier: Apache-2.0
"""Every registered attack passes the contract, and for each promise an attack that breaks it is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from splitguard.api import ATTACKS, Attack, Goal, Guess, Labels, Mode, OnlineAttack, Party, Seat, Sees, Threat, View
from splitguard.contract import check_attack, promises, tried
from splitguard.engine.trial import Trial
from splitguard.errors import UnknownName


@dataclass(kw_only=True)
class Honest(Attack):
    """Names the candidate whose release is nearest.

    Args:
        scale: of nothing.
        shape: a tuple, which YAML writes as a list.
    """

    scale: float = 1.0
    shape: tuple[int, ...] = (1, 2)
    goal: ClassVar[Goal] = Goal.CANDIDATES
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.QUERY | Sees.CANDIDATES)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        made = view.query(view.candidates, generator).flatten(1)
        return Guess(view.ids, choices=torch.cdist(view.releases.last(view.ids).smashed.flatten(1), made).argmin(1))


@dataclass(kw_only=True)
class Mean(Attack):
    """Answers with the mean auxiliary image, as who never saw the wire."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.AUX)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        view.need(self.threat.needs)
        return Guess(view.ids, images=self.images(view.aux.inputs.mean(0).expand(len(view.ids), *view.input_shape)))

    def images(self, mean: Tensor) -> Tensor:
        """What it hands over."""
        return mean.clone()


@dataclass(kw_only=True)
class Majority(Attack):
    """Answers with one label for all."""

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(Sees.LABEL_GRAD)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        view.need(self.threat.needs)
        return Guess(view.ids, labels=torch.zeros(len(view.ids), dtype=torch.int64))


@dataclass(kw_only=True)
class NeedsSetting(Honest):
    """Has a setting without a default."""

    wanted: int


class NoAttack:
    """Of another family."""


class NoDataclass(Attack):
    """Has no settings, and says so in the wrong way."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids)


@dataclass(kw_only=True)
class Undescribed(Honest):
    """Says nothing about a setting.

    Args:
        scale: of nothing.
    """


@dataclass(kw_only=True)
class Unversioned(Mean):
    """Has no version."""

    version: ClassVar[Any] = "1"


@dataclass(kw_only=True)
class NotPlain(Mean):
    """Has a setting that is no plain data."""

    weights: Any = complex(1, 2)


@dataclass(kw_only=True)
class OtherOrder(Mean):
    """Answers for the victims in another order."""

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids.flip(0), images=super().run(view, generator).images)


@dataclass(kw_only=True)
class OutOfRange(Mean):
    """Hands over images on another scale."""

    def images(self, mean: Tensor) -> Tensor:
        return 255 * mean


@dataclass(kw_only=True)
class NotANumber(Mean):
    """Hands over NaN."""

    def images(self, mean: Tensor) -> Tensor:
        return mean * torch.nan


@dataclass(kw_only=True)
class OtherShape(Mean):
    """Hands over one image too few."""

    def images(self, mean: Tensor) -> Tensor:
        return mean[1:]


@dataclass(kw_only=True)
class Nothing(Mean):
    """Hands over labels where images are asked for."""

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, labels=torch.zeros(len(view.ids), dtype=torch.int64))


@dataclass(kw_only=True)
class Unseeded(Mean):
    """Draws from a generator of its own."""

    def images(self, mean: Tensor) -> Tensor:
        own = torch.Generator()
        own.seed()
        return torch.rand(mean.shape, generator=own)


@dataclass(kw_only=True)
class Drawing(Mean):
    """Draws from torch's global generator."""

    def images(self, mean: Tensor) -> Tensor:
        return torch.rand(mean.shape)


@dataclass(kw_only=True)
class Seeding(Mean):
    """Seeds NumPy's global generator."""

    def images(self, mean: Tensor) -> Tensor:
        np.random.seed(0)  # noqa: NPY002  # what the contract forbids
        return mean.clone()


@dataclass(kw_only=True)
class InPlace(Mean):
    """Writes to the auxiliary images."""

    def run(self, view: View, generator: torch.Generator) -> Guess:
        view.aux.inputs.mul_(0.999)
        return super().run(view, generator)


@dataclass(kw_only=True)
class InTheHead(Mean):
    """Writes to the snapshots behind the view."""

    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.HEAD | Sees.AUX)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        for state in view.head_states(view.releases.head[:1]).values():
            state.add_(1)  # a copy, which is allowed
        for value in view.models.state(int(view.releases.head[0])).values():
            value.add_(1e-3)
        return super().run(view, generator)


@dataclass(kw_only=True)
class Modest(Mean):
    """Declares more than it reads."""

    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.BODY | Sees.AUX)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        view.need(Sees.SMASHED | Sees.AUX)
        return Guess(view.ids, images=self.images(view.aux.inputs.mean(0).expand(len(view.ids), *view.input_shape)))


BREAKERS: list[tuple[Any, str, str]] = [
    (NeedsSetting, "builds with its defaults", "needs the setting 'wanted'"),
    (NoAttack, "builds with its defaults", "is no class derived from Attack"),
    (NoDataclass, "builds with its defaults", "needs @dataclass above it"),
    (Undescribed, "is described", "Args in the docstring leaves out shape"),
    (Unversioned, "is described", "version must be a whole number from 1; got '1'"),
    (NotPlain, "settings survive YAML", "not JSON serializable"),
    (OtherOrder, "answers for every victim, in range", "ids must be view.ids"),
    (OutOfRange, "answers for every victim, in range", "must be finite and in [0, 1]"),
    (NotANumber, "answers for every victim, in range", "must be finite and in [0, 1]; got nan"),
    (OtherShape, "answers for every victim, in range", "images must have shape (16, 1, 25, 25); got (15, 1, 25, 25)"),
    (Nothing, "answers for every victim, in range", "images were not handed over"),
    (Unseeded, "same generator, same answer", "images differ between two runs"),
    (Drawing, "leaves global randomness alone", "used the global generator of torch"),
    (Seeding, "leaves global randomness alone", "used the global generator of numpy"),
    (InPlace, "leaves the view alone", "wrote to aux"),
    (InTheHead, "leaves the view alone", "wrote to head snapshots"),
    (Modest, "refuses a view without what it needs", "needs body, yet it runs without"),
    (Mean, "better than a blind guess", "no better than a blind guess: ssim"),
    (Majority, "better than a blind guess", "no better than a blind guess: leakage"),
]


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
    from splitguard.engine import trial

    def plant(cls: Any) -> None:
        monkeypatch.setitem(ATTACKS._found, "planted", cls)
        if cls in (InPlace, InTheHead):
            fresh_data = trial._data.__wrapped__()
            monkeypatch.setattr(trial, "_data", lambda: fresh_data)
            monkeypatch.setattr(trial, "_trained", lambda mode, labels: trial._train(mode, labels, None))

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
