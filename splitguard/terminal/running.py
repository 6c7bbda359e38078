# SPDX-License-Identifier: Apache-2.0
"""``splitguard init``, ``run`` and ``report``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from splitguard.errors import BadSetting
from splitguard.terminal.console import plain_console

__all__ = ["init", "report", "run"]


def init(file: Path) -> None:
    """Writes the starter matrix."""
    from splitguard.terminal.templates import MATRIX

    if file.exists():
        raise BadSetting(f"{file} exists already; give another name")
    if not file.parent.is_dir():
        raise BadSetting(f"the folder {file.parent} does not exist; make it, or give another path")
    quoted = shlex.quote(str(file))
    file.write_text(MATRIX.replace("@FILE@", quoted))
    print(f"wrote {file}\nnext: splitguard run {quoted} --out {shlex.quote(f'runs/{file.stem}')} --dry-run")


def run(file: Path, out: Path, *, jobs: int, limit: int | None, dry_run: bool, as_json: bool) -> int:
    """Runs or resumes a matrix; 1 if a cell failed."""
    from splitguard.matrix import Matrix

    matrix = Matrix.from_file(file)
    if not len(matrix):
        raise BadSetting(
            f"{file} makes 0 cells: nothing would be run. `attack: breakers` stands for the attacks that the defenses "
            "of its block name, and these name none; give a defense that has breakers, or name attacks"
        )
    if dry_run:
        plan = matrix.plan(out, jobs=jobs, limit=limit)
        print(json.dumps(plan.as_dict()) if as_json else plan)
        return 0
    results = matrix.run(out, jobs=jobs, limit=limit, progress=not as_json)
    _write(out)
    counts = {str(k): int(v) for k, v in results.frame["status"].value_counts().items()}
    if as_json:
        print(json.dumps({"folder": str(out), "cells": counts}))
    else:
        said = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
        plain_console().print(f"{said}. Open {out / 'report.html'}", soft_wrap=True)
    return int(counts.get("failed", 0) > 0)


def report(folder: Path) -> None:
    """Writes the page and the tables of a run folder."""
    if not folder.is_dir():
        raise BadSetting(
            f"{folder} is not a run folder; make one with: splitguard run FILE --out {shlex.quote(str(folder))}"
        )
    for path in _write(folder):
        print(path)


def _write(folder: Path) -> list[Path]:
    from splitguard.reports import write_report

    return write_report(folder)
