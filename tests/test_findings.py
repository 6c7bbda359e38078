# SPDX-License-Identifier: Apache-2.0
"""The README's numbers are those of the stored run."""

from __future__ import annotations

from pathlib import Path

from benchmarks.findings import table

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_shows_the_stored_run() -> None:
    assert table() in README.read_text(encoding="utf-8")
