# SPDX-License-Identifier: Apache-2.0
"""The README's numbers, and those of docs/evidence.md, are those of the stored runs."""

from __future__ import annotations

from pathlib import Path

from benchmarks import evidence
from benchmarks.findings import table

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_shows_the_stored_run() -> None:
    assert table() in README.read_text(encoding="utf-8")


def test_the_page_of_evidence_shows_the_stored_results() -> None:
    assert evidence.DOCS.read_text(encoding="utf-8") == evidence.page()
