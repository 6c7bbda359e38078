# SPDX-License-Identifier: Apache-2.0
"""Every example in a docstring of splitguard, its attacks and its defenses is true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "splitguard"
# rglob does not enter the two symlinked folders; they are named, so that plug-ins load under their one right name.
SOURCES = {*PACKAGE.rglob("*.py"), *PACKAGE.glob("attacks/*.py"), *PACKAGE.glob("defenses/*.py")}
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCES
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_are_true(name: str, doctest_namespace: dict[str, Any]) -> None:
    module = importlib.import_module(name)
    found = doctest.testmod(module, extraglobs=doctest_namespace, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0, f"{name} has '>>> ' where doctest does not look; examples belong in docstrings"
    assert found.failed == 0, (
        f"{found.failed} of {found.attempted} examples in {name} are not true; see the output above"
    )
