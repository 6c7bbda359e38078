# SPDX-License-Identifier: Apache-2.0
"""torchvision and lpips load in a fresh process, also after an import of torchvision that failed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from splitguard import compat
from splitguard.errors import NotSupported

FRESH = """
import torch
try:
    import torchvision
except RuntimeError as error:
    assert "torchvision::nms" in str(error), error
from splitguard.compat import lpips, torchvision
vision = torchvision()
assert vision is torchvision()
assert vision.models.squeezenet1_1(num_classes=3)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
assert lpips().LPIPS.__name__ == "LPIPS"
torch.ops.torchvision.nms, torch.ops.torchvision.qnms
import torchvision.models
assert torchvision is vision
"""


def test_both_load_where_a_plain_import_may_fail() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", FRESH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_declared_where_the_real_operators_load(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    monkeypatch.setattr(compat, "_DECLARED", [])
    compat._declare_missing_operators()
    assert [path.rpartition("/")[2].partition(".")[0] for path in loaded] == ["_C"]
    assert compat._DECLARED == []


def test_a_package_that_is_absent_is_named() -> None:
    with pytest.raises(
        NotSupported, match="needs the package no_such_package, which is not installed; pip install no_s"
    ):
        compat._need("no_such_package")
