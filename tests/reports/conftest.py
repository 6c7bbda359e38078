# SPDX-License-Identifier: Apache-2.0
"""One invented run, shared by all tests of reports; they only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitguard.matrix import Results, load
from splitguard.reports import write_report
from splitguard.reports.facts import Deployment
from splitguard.reports.gather import deployments
from tests.reports.runs import write_run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with its report."""
    out = write_run(tmp_path_factory.mktemp("reports") / "run")
    write_report(out)
    return out


@pytest.fixture(scope="session")
def results(folder: Path) -> Results:
    return load(folder)


@pytest.fixture(scope="session")
def everyone(results: Results) -> list[Deployment]:
    return deployments(results)


@pytest.fixture(scope="session")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")
