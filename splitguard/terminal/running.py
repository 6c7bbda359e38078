# SPDX-License-Identifier: Apache-2.0
"""``splitguard init``, ``run`` and ``report``."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from splitguard.errors import BadSetting

__all__ = ["init", "report", "run"]


def init(file: Path) -> None:
    """Writes the starter matrix."""
    from splitguard.terminal.templates import MATRIX

    if file.exists():
        raise BadSetting(f"{file} exists already; give another name")
    file.write_text(MATRIX.replace("@FILE@", str(file)))
    print(f"wrote {file}\nnext: splitguard run {file} --out runs/{file.stem} --dry-run")


def run(file: Path, out: Path, *, jobs: int, limit: int | None, dry_run: bool, as_json: bool) -> int:
    """Runs or resumes a matrix; 1 if a cell failed."""
    from splitguard.matrix import Matrix

    matrix = Matrix.from_file(file)
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
        Console().print(f"{said}. Open {out / 'report.html'}", highlight=False, soft_wrap=True)
    return int(counts.get("failed", 0) > 0)


def report(folder: Path) -> None:
    """Writes the page and the tables of a run folder."""
    if not folder.is_dir():
        raise BadSetting(f"{folder} is not a run folder; make one with: splitguard run FILE --out {folder}")
    for path in _write(folder):
        print(path)


def _write(folder: Path) -> list[Path]:
    from splitguard.reports import write_report

    return write_report(folder)
