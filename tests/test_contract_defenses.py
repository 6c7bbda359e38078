# SPDX-License-Identifier: Apache-2.0
"""Every registered defense passes the contract, and for each promise a defense that breaks it is caught."""

from __future__ import annotations

from typing import Any

import pytest

from splitguard.api import DEFENSES
from splitguard.contract.defense import check_defense, promises
from splitguard.contract.kept import tried
from splitguard.errors import UnknownName
from tests.defenses.broken import BREAKERS, Honest, NeedsSetting
from tests.defenses.overstated import OVERSTATED

EVERY = [*BREAKERS, *OVERSTATED]


@pytest.mark.parametrize("name", list(DEFENSES))
def test_every_registered_defense_passes(name: str) -> None:
    found = check_defense(name)
    assert [check.name for check in found] == list(promises(name))
    broken = [f"{check.name}: {check.detail}" for check in found if not check.passed]
    assert not broken, "\n".join(broken)


def test_an_unknown_name_is_answered_with_near_misses() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'gaussian'"):
        check_defense("gausian")


@pytest.mark.parametrize(("cls", "promise", "told"), EVERY, ids=[cls.__name__ for cls, *_ in EVERY])
def test_a_broken_promise_is_caught(monkeypatch: pytest.MonkeyPatch, cls: Any, promise: str, told: str) -> None:
    monkeypatch.setitem(DEFENSES._found, "planted", cls)
    found = tried(promise, promises("planted")[promise])
    assert not found.passed, found
    assert told in found.detail


def test_every_promise_has_somebody_who_breaks_it() -> None:
    assert {promise for _, promise, _ in EVERY} == set(promises("none"))


def test_an_honest_relative_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFENSES._found, "planted", Honest)
    assert [check for check in check_defense("planted") if not check.passed] == []


def test_what_does_not_build_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFENSES._found, "planted", NeedsSetting)
    [found] = check_defense("planted")
    assert (found.name, found.passed) == ("builds with its defaults", False)


def test_every_defense_here_names_its_breakers() -> None:
    assert [name for name in DEFENSES if name != "none" and not DEFENSES.get(name).breakers] == []  # type: ignore[attr-defined]
