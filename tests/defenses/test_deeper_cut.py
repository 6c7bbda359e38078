# SPDX-License-Identifier: Apache-2.0
"""Where the deeper cut ends, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from splitguard.api import BadSetting, NotSupported
from splitguard.defenses.deeper_cut import DeeperCut
from splitguard.engine.bench import Bench

LEGAL: Any = [SimpleNamespace(name=name) for name in ("a", "b", "c", "d")]


@pytest.mark.parametrize(
    ("cuts", "layers", "ends"),
    [
        (("a",), 0, ("a",)),
        (("a",), 1, ("b",)),
        (("a",), 3, ("d",)),
        (("d",), 0, ("d",)),
        (("a", "d"), 2, ("c", "d")),
        (("b", "c"), 0, ("b", "c")),
    ],
)
def test_the_first_cut_moves_and_the_second_stays(cuts: tuple[str, ...], layers: int, ends: tuple[str, ...]) -> None:
    assert DeeperCut(layers=layers).place(cuts, LEGAL) == ends


@pytest.mark.parametrize(
    ("cuts", "layers", "message"),
    [
        (("a",), 4, r"4 further than a is not before the output; layers 0\.\.3 fit: b, c, d"),
        (("d",), 1, r"1 further than d is not before the output; none fits; choose an earlier first cut"),
        (("a", "c"), 2, r"not before the second cut c; layers 0\.\.1 fit: b\. .* order: a, b, c, d"),
        (("b", "c"), 1, r"not before the second cut c; none fits"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(cuts: tuple[str, ...], layers: int, message: str) -> None:
    with pytest.raises(NotSupported, match=message):
        DeeperCut(layers=layers).place(cuts, LEGAL)


def test_a_negative_depth_is_refused() -> None:
    with pytest.raises(BadSetting, match="0 or more; got -1"):
        DeeperCut(layers=-1)


def test_it_is_the_plain_deployment_at_the_cut_it_ends_at() -> None:
    bench = Bench(DeeperCut(layers=2))
    assert bench.deployment.cuts == ("conv2",)
    assert all(torch.equal(given, got) for _, given, got in bench.hooks(bench.smashed))
    assert bench.defense.privacy() == ()
