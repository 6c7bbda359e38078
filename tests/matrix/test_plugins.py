# SPDX-License-Identifier: Apache-2.0
"""Settings as pure data: what no key could be made of is refused by name, whoever wrote the matrix."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from splitguard.api import Goal
from splitguard.errors import BadSetting
from splitguard.matrix import Matrix
from splitguard.matrix.plugins import plain
from splitguard.matrix.reading import MatrixError
from tests.matrix.toys import QUICK


def test_plain_values_stay_what_they_are() -> None:
    value = {"a": [1, 2.5, (True, None)], "goal": Goal.INPUTS, "names": {"b", "a"}, "path": Path("x/y")}
    assert plain(value) == {"a": [1, 2.5, [True, None]], "goal": "inputs", "names": ["a", "b"], "path": "x/y"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"lr": math.nan}, "the setting 'lr' must be a finite number; got nan"),
        ({"adam": {"betas": [0.9, math.inf]}}, "the setting 'betas' must be a finite number; got inf"),
        (-math.inf, "a setting must be a finite number; got -inf"),
        ({"lr": object}, "the setting 'lr' must be plain data"),
    ],
)
def test_what_json_does_not_know_is_refused_by_name(value: Any, said: str) -> None:
    with pytest.raises(BadSetting, match=said):
        plain(value)


@pytest.mark.parametrize(
    "more", [{"attack": {"toy-noise": {"scale": math.nan}}}, {"train": {"optimizer": {"name": "sgd", "lr": math.inf}}}]
)
def test_a_matrix_from_python_is_held_to_the_same(more: dict[str, Any]) -> None:
    with pytest.raises(MatrixError, match=r"(scale|lr): the setting '(scale|lr)' must be a finite number"):
        Matrix({**QUICK, "attack": "toy-noise", **more})
