# SPDX-License-Identifier: Apache-2.0
"""``attack: breakers`` stands for the attacks that each defense declares, and for all of them where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from splitguard.api import DEFENSES, Defense, Spec
from splitguard.matrix import Matrix, MatrixError
from tests.matrix.toys import QUICK


@dataclass
class One(Defense):
    """Declares an attack with settings, and another."""

    breakers: ClassVar[tuple[Spec, ...]] = ({"white-box-inversion": {"steps": 7}}, "inverse-network")


@dataclass
class Two(Defense):
    """Shares one with the other."""

    breakers: ClassVar[tuple[Spec, ...]] = ("inverse-network", "candidate-match")


@dataclass
class Wrong(Defense):
    """Declares an attack that does not exist."""

    breakers: ClassVar[tuple[Spec, ...]] = ("invers-network",)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    DEFENSES.load()
    monkeypatch.setattr(DEFENSES, "_found", {**DEFENSES._found})
    for name, cls in (("one", One), ("two", Two), ("wrong", Wrong)):
        DEFENSES.add(name)(cls)


def attacks(**more: Any) -> dict[str, list[str]]:
    """The attacks of each deployment, by its defense."""
    out: dict[str, list[str]] = {}
    for resolved in Matrix({**QUICK, "attack": "breakers", **more}).cells:
        out.setdefault(resolved.cell.defended(), []).append(str(resolved.cell.attack))
    return out


def test_each_defense_meets_its_own_and_the_undefended_all_of_them() -> None:
    first, second, third = "white-box-inversion(steps=7)", "inverse-network", "candidate-match"
    assert attacks(defense=["none", "one", "two"]) == {
        "none": [first, second, third],
        "one": [first, second],
        "two": [second, third],
    }


def test_a_composition_meets_those_of_its_parts_beside_what_else_is_asked_for() -> None:
    found = attacks(defense=[["one", "two"]], attack=["breakers", "candidate-match"])
    assert sorted(found["one + two"]) == ["candidate-match", "inverse-network", "white-box-inversion(steps=7)"]


def test_an_attack_that_does_not_exist_is_an_error_with_its_place() -> None:
    with pytest.raises(MatrixError, match=r"attack.*unknown attack 'invers-network'"):
        attacks(defense="wrong")
