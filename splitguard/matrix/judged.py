# SPDX-License-Identifier: Apache-2.0
"""What judging a guess hands over, whatever the goal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy.typing as npt

from splitguard.api import Attack
from splitguard.errors import BadSetting
from splitguard.matrix.record import Value

__all__ = ["Judged", "wanted"]

T = TypeVar("T")


@dataclass(frozen=True)
class Judged:
    """What a guess is worth.

    Attributes:
        values: by column.
        extra: the attack's tuned settings and budget.
        arrays: per victim, for the victims' file: ids, guess, truth and scores.
    """

    values: dict[str, Value]
    extra: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


def wanted(value: T | None, attack: Attack, what: str) -> T:
    """The part of a guess that its goal asks for.

    Raises:
        BadSetting: if the guess has none.
    """
    if value is None:
        raise BadSetting(f"{attack.name}: an attack after {attack.goal} hands over {what}; its guess has none")
    return value
