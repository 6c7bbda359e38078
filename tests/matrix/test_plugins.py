# SPDX-License-Identifier: Apache-2.0
"""Settings as pure data: what no key could be made of is refused by name, whoever wrote the matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from splitguard.api import ATTACKS, Defense, Goal
from splitguard.errors import BadSetting
from splitguard.matrix import Matrix
from splitguard.matrix.plugins import as_plugin, plain
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


@dataclass(kw_only=True)
class Grown(Defense):
    """A defense that was given a second setting later."""

    rate: float = 0.5
    twice: bool = field(default=False, metadata={"added": True})


def test_a_setting_that_was_added_later_is_no_part_of_the_key_at_its_default() -> None:
    before = as_plugin(Grown(), {})
    assert before.settings == {"rate": 0.5}
    assert as_plugin(Grown(twice=False), {"twice": False}) == before
    assert as_plugin(Grown(twice=True), {"twice": True}).settings == {"rate": 0.5, "twice": True}


def test_inverse_network_keeps_the_keys_of_before_it_could_read_each_release() -> None:
    before = {"steps": 300, "width": 16, "blocks": 1, "lr": 5e-3, "ssim": 0.1, "batch_size": 32, "aux": 2000}
    assert as_plugin(ATTACKS.build("inverse-network"), {}).settings == before
    assert as_plugin(ATTACKS.build({"inverse-network": {"reads": "each"}}), {}).settings == {**before, "reads": "each"}
