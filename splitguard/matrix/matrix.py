# SPDX-License-Identifier: Apache-2.0
"""A matrix of deployments and attacks: read, planned, run, and run again where it stopped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from splitguard.errors import BadSetting
from splitguard.matrix.cell import KEY_VERSION, Cell
from splitguard.matrix.environment import environment
from splitguard.matrix.estimate import Stopwatch
from splitguard.matrix.plan import Plan, make_plan
from splitguard.matrix.reading import Source, read_yaml
from splitguard.matrix.resolve import resolve_file
from splitguard.matrix.results import Results
from splitguard.matrix.runner import run_plan
from splitguard.matrix.spec import validate
from splitguard.matrix.store import Store

__all__ = ["Matrix"]


class Matrix:
    """All combinations of a matrix file, every name and setting resolved.

    Args:
        value: the content of a matrix file; `splitguard.matrix.spec` describes it.

    Attributes:
        title, demonstration: as the file says.
        cells: every combination once, and the reason where one is refused.

    Raises:
        MatrixError: with a line for each thing that is wrong: where, what was wanted, what came, a near miss.
    """

    def __init__(self, value: Mapping[str, Any], *, source: Source | None = None) -> None:
        source = source if source is not None else Source.of(value)
        file = validate(value, source)
        self.title = file.title
        self.demonstration = file.demonstration
        self._source = source
        self.cells, self._networks = resolve_file(file, source)

    @classmethod
    def from_file(cls, path: str | Path) -> Matrix:
        """The matrix in a YAML file; errors name the line."""
        value, source = read_yaml(Path(path))
        return cls(value, source=source)

    def plan(self, out: str | Path | None = None, *, jobs: int = 1, limit: int | None = None) -> Plan:
        """What a run would do now, and roughly how long it would take.

        Args:
            out: the run folder, where finished cells are found; None for a fresh one.
            jobs: how many workers.
            limit: at most so many cells.
        """
        _check(jobs, limit)
        store = None if out is None else Store(Path(out))
        plan = make_plan(self.cells, store, limit=limit)
        ridden = [rider for t in plan.trainings for rider in t.riders]
        plan.estimate = Stopwatch(self._network).estimate(
            [t.cell for t in plan.trainings],
            [cell for cell, _ in plan.attacks],
            ridden,
            self._measured(store),
            jobs,
        )
        return plan

    def run(self, out: str | Path, jobs: int = 1, limit: int | None = None, progress: bool = True) -> Results:
        """Runs what is not finished yet, and writes results.csv and summary.csv.

        Kill it at any moment and run it again: nothing finished is lost or done twice. Failed cells are tried again.
        Numbers do not depend on ``jobs``.

        Args:
            out: the run folder; may hold results of an earlier or of another matrix.
            jobs: how many trainings or attacks run side by side.
            limit: run at most so many cells now.
            progress: show the plan and two bars on stderr.

        Raises:
            BadSetting: if another run is writing to the folder.
            KeyboardInterrupt: after Ctrl-C; what was finished is kept.
        """
        _check(jobs, limit)
        store = Store(Path(out))
        with store.lock():
            plan = self.plan(out, jobs=jobs, limit=limit) if progress else make_plan(self.cells, store, limit=limit)
            if progress:
                _say(plan)
            around = environment()
            store.write_matrix(self._as_dict(around))
            run_plan(plan, store, jobs=jobs, environment=around, progress=progress)
            results = Results(store.folder)
            results.write_csv()
        return results

    def _network(self, cell: Cell) -> tuple[nn.Module, tuple[int, ...]]:
        task = self._networks.task({k: v for k, v in cell.data.items() if k != "digest"})
        return self._networks.module(cell.model, task)[0], task.shape

    def _measured(self, store: Store | None) -> dict[str, float]:
        """Mean seconds of the attacks that ran in this folder before, by name."""
        found: dict[str, list[float]] = defaultdict(list)
        for resolved in self.cells if store is not None else ():
            record = store.record(resolved.cell, "training") if store is not None else None
            seconds = None if record is None else record.values.get("attack_seconds")
            if seconds is not None:
                found[resolved.cell.attack.name].append(float(seconds))
        return {name: sum(values) / len(values) for name, values in found.items()}

    def _as_dict(self, around: Mapping[str, Any]) -> dict[str, Any]:
        """Content of matrix.json."""
        return {
            "file": self._source.file,
            "source": self._source.text,
            "title": self.title,
            "demonstration": self.demonstration,
            "key_version": KEY_VERSION,
            "environment": dict(around),
            "seeds": sorted({r.cell.seed for r in self.cells}),
            "cells": [r.cell.to_json() for r in self.cells],
        }

    def __len__(self) -> int:
        return len(self.cells)


def _check(jobs: int, limit: int | None) -> None:
    if jobs < 1:
        raise BadSetting(f"jobs must be 1 or more; got {jobs}")
    if limit is not None and limit < 1:
        raise BadSetting(f"limit must be 1 or more cells; got {limit}")


def _say(plan: Plan) -> None:
    from rich.console import Console

    Console(stderr=True).print(str(plan), highlight=False, markup=False, soft_wrap=True)
