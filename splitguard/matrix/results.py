# SPDX-License-Identifier: Apache-2.0
"""What a run folder holds, as tables: results.csv, one row a cell and phase, and summary.csv, one row a deployment."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from splitguard.errors import DataUnavailable
from splitguard.matrix.cell import Cell
from splitguard.matrix.record import COLUMNS, Record, Value, described, phases
from splitguard.matrix.store import Store
from splitguard.matrix.summary import SUMMARY_COLUMNS, summarise

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Results", "load"]


class Results:
    """The records of one run folder, in the order of the matrix it was run with last.

    Attributes:
        folder: of the run.
        matrix: the matrix as it was resolved: title, demonstration, cells, versions, commit, seeds.
        records: one a cell and phase; what has not been run yet is not among them.
        missing: cells and phases without a record.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = Store(folder)
        self.matrix: dict[str, Any] = self._store.matrix()
        self.records: list[Record] = []
        self.missing: list[tuple[Cell, str]] = []
        for cell in _cells(self.matrix, folder):
            for phase in phases(cell.goal):
                record = self._store.record(cell, phase)
                if record is None:
                    self.missing.append((cell, phase))
                else:
                    self.records.append(record)

    @property
    def title(self) -> str | None:
        """Of the matrix."""
        title: str | None = self.matrix["title"]
        return title

    @property
    def demonstration(self) -> bool:
        """Whether the matrix says of itself that it is too small to be evidence."""
        return bool(self.matrix["demonstration"])

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """One row a cell and phase: the columns of results.csv, then further metrics, sorted. Missing is NA."""
        rows = [record.row() for record in self.records]
        further = sorted({name for row in rows for name in row} - set(COLUMNS))
        return _table(rows, [*COLUMNS, *further])

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """One row a deployment; see `splitguard.matrix.summary.summarise`."""
        return _table(summarise(self.records), SUMMARY_COLUMNS)

    def victims(self, record: Record) -> dict[str, npt.NDArray[Any]] | None:
        """Truth, guess and per-victim scores of a record, by name; None where there are none.

        Images are uint8 (N, C, H, W): ``truth``, ``guess``, ``blind_guess``; scores are ``score_ssim`` and so on, (N,).
        """
        return self._store.victims(record)

    def write_csv(self) -> list[Path]:
        """Writes results.csv and summary.csv into the run folder; a missing value is an empty field."""
        written = []
        for name, table in (("results.csv", self.frame), ("summary.csv", self.summary)):
            path = self.folder / name
            table.to_csv(path, index=False)
            written.append(path)
        return written

    def __repr__(self) -> str:
        counts = {s: sum(r.status == s for r in self.records) for s in ("ok", "failed", "refused")}
        said = ", ".join(f"{n} {status}" for status, n in counts.items())
        return f"Results({str(self.folder)!r}: {said}, {len(self.missing)} not run)"


def load(folder: str | Path) -> Results:
    """The results in a run folder.

    Raises:
        DataUnavailable: if it holds no run, one of 0 cells, or one that cannot be read.
    """
    return Results(Path(folder))


def _cells(matrix: Any, folder: Path) -> list[Cell]:
    """The cells of matrix.json, each of which can be described.

    Raises:
        DataUnavailable: if there are none, or the file is damaged or of another version.
    """
    try:
        if not isinstance(matrix["title"], str | None) or not isinstance(matrix["demonstration"], bool):
            raise TypeError("title must be a text or null, and demonstration true or false")
        if not isinstance(matrix.get("environment") or {}, Mapping):
            raise TypeError("environment must be a mapping")
        cells = [Cell.from_json(value) for value in matrix["cells"]]
        for cell in cells:
            cell.key()
            described(cell)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise DataUnavailable(
            f"{folder / 'matrix.json'} is damaged or was written by another version of splitguard ({said}). Run the "
            "matrix again with this folder as --out: it is written anew, and records that can be read are kept"
        ) from None
    if not cells:
        raise DataUnavailable(
            f"{folder} holds a run of 0 cells: there is nothing to report. Give its matrix attacks (`attack: breakers` "
            "alone stands for none where no defense names any) and run it again"
        )
    return cells


def _table(rows: Sequence[dict[str, Value]], columns: Sequence[str]) -> pd.DataFrame:
    """A data frame whose whole numbers stay whole where some are missing."""
    import pandas as pd

    return pd.DataFrame({name: pd.Series(values, dtype=_dtype(values)) for name, values in _columns(rows, columns)})


def _columns(rows: Sequence[dict[str, Value]], columns: Sequence[str]) -> list[tuple[str, list[Value]]]:
    return [(name, [row.get(name) for row in rows]) for name in columns]


def _dtype(values: Sequence[Value]) -> str:
    kinds = {type(v) for v in values if v is not None}
    if not kinds or str in kinds:
        return "object"
    if kinds == {bool}:
        return "boolean" if None in values else "bool"
    if kinds == {int}:
        return "Int64" if None in values else "int64"
    return "float64"
