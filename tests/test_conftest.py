# SPDX-License-Identifier: Apache-2.0
"""The shared fixtures do what they promise."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

Guard = Callable[[], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("torch", lambda: torch.rand(1)),
        ("numpy", np.random.rand),  # what the guard must catch
        ("random", random.random),
    ],
)
def test_a_global_draw_is_caught(rng_untouched: Guard, name: str, draw: Callable[[], object]) -> None:
    with pytest.raises(AssertionError, match=f"was used: {name};"), rng_untouched():
        draw()


def test_own_generators_are_no_global_draw(rng_untouched: Guard) -> None:
    with rng_untouched():
        torch.rand(1, generator=torch.Generator().manual_seed(0))
        np.random.default_rng(0).random()


def test_every_test_computes_on_one_thread() -> None:
    assert torch.get_num_threads() == 1


def test_data_is_found_where_the_variable_points(
    test_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here.npz").touch()
    monkeypatch.setenv("SPLITGUARD_DATA", str(tmp_path))
    assert test_data("here.npz") == tmp_path / "here.npz"
    with pytest.raises(pytest.skip.Exception, match=r"no absent.npz in .*SPLITGUARD_DATA"):
        test_data("absent.npz")
