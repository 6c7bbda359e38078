# SPDX-License-Identifier: Apache-2.0
"""Runs the command line within a test."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from splitguard import cli


class Ran:
    """What one command printed, and how it ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


Run = Callable[..., Ran]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs one command in this process."""

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["splitguard", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        caught = capsys.readouterr()
        return Ran(status, caught.out, caught.err)

    return run
