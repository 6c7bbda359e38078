# SPDX-License-Identifier: Apache-2.0
"""The run folder: each result is one file, written whole or not at all, found again by the key of its cell.

    records/<cell>-<phase>.json     one row of results.csv, with all that made it
    victims/<cell>-<phase>.npz      truth, guess and per-victim scores
    sessions/<session>/             a trained session (safetensors, JSON) and outcome.json, its numbers
    sessions/<session>-*.checkpoint a training that was interrupted
    matrix.json                     the matrix as it was resolved last, with versions, commit and seeds

Records are found by what they are, not by which file asked for them: a matrix that grows keeps what it has.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from splitguard.errors import BadSetting, DataUnavailable
from splitguard.matrix.cell import Cell
from splitguard.matrix.outcome import Outcome
from splitguard.matrix.record import Record

__all__ = ["Store"]

PART = ".part"
Arrays = dict[str, npt.NDArray[Any]]


class Store:
    """Reads and writes one run folder.

    Args:
        folder: is made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """A block in which no other run writes here; leftovers of killed runs are cleared first.

        Raises:
            BadSetting: if another run holds the folder.
        """
        for name in ("records", "victims", "sessions"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a+") as handle:
            _hold(handle, self.folder)
            for left in [*self.folder.glob(f"*{PART}"), *self.folder.glob(f"*/*{PART}")]:
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
            yield

    def record(self, cell: Cell, phase: str) -> Record | None:
        """The record of a cell; None if there is none, or none that can be read."""
        try:
            text = (self.folder / "records" / f"{cell.key()}-{phase}.json").read_text(encoding="utf-8")
            return Record.from_json(json.loads(text))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # partial or damaged: it is done again

    def finished(self, cell: Cell, phase: str) -> bool:
        """Whether a record needs no further run: it did not fail, and its victims' file is whole."""
        record = self.record(cell, phase)
        if record is None or not record.finished:
            return False
        return record.status == "refused" or self._size(self.victims_path(record)) == record.extra.get("victims_bytes")

    def write(self, record: Record, arrays: Arrays | None = None) -> None:
        """Writes the victims' file, then the record; each appears whole or not at all."""
        extra = dict(record.extra)
        if arrays is not None:
            path = self.victims_path(record)
            _whole(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))
            extra["victims_bytes"] = self._size(path)
        value = {**record.to_json(), "extra": extra}
        self._json(self.folder / "records" / f"{record.name}.json", value)

    def victims_path(self, record: Record) -> Path:
        """Where the reconstructions of a record lie."""
        return self.folder / "victims" / f"{record.name}.npz"

    def victims(self, record: Record) -> Arrays | None:
        """ids, truth, guess and per-victim scores of a record; None where there are none."""
        try:
            with self.victims_path(record).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def session(self, key: str) -> Path:
        """The folder of a trained session."""
        return self.folder / "sessions" / key

    def checkpoint(self, key: str, riders: str) -> Path:
        """Where a training saves its state; ``riders`` tells apart trainings with other attacks in them."""
        return self.folder / "sessions" / f"{key}-{riders}.checkpoint"

    def outcome(self, key: str) -> Outcome | None:
        """The numbers of a session that is there and whole; else None."""
        folder = self.session(key)
        try:
            outcome = Outcome(**json.loads((folder / "outcome.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        whole = all(self._size(folder / name) == size for name, size in outcome.files.items())
        return outcome if whole else None

    def save_session(self, key: str, save: Callable[[Path], None], outcome: Outcome) -> None:
        """Has ``save`` write a session into a folder that then appears whole; one that is there already stays."""
        if self.outcome(key) is not None:
            return
        shutil.rmtree(self.session(key), ignore_errors=True)
        part = self.folder / "sessions" / f"{key}.{uuid4().hex}{PART}"
        save(part)
        files = {str(p.relative_to(part)): p.stat().st_size for p in sorted(part.rglob("*")) if p.is_file()}
        self._json(part / "outcome.json", {**asdict(outcome), "files": files})
        try:
            part.rename(self.session(key))
        except OSError:
            if self.outcome(key) is None:
                raise
            shutil.rmtree(part)  # the worker of a run that was killed came first, with the same bits

    def write_matrix(self, value: Mapping[str, Any]) -> None:
        """Writes matrix.json."""
        self._json(self.folder / "matrix.json", value)

    def matrix(self) -> dict[str, Any]:
        """The content of matrix.json.

        Raises:
            DataUnavailable: if the folder holds no run.
        """
        try:
            value: dict[str, Any] = json.loads((self.folder / "matrix.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataUnavailable(
                f"{self.folder} holds no run that can be read ({error}); wanted a folder that `splitguard run` wrote"
            ) from None
        return value

    @staticmethod
    def _json(path: Path, value: Any) -> None:
        text = json.dumps(value, indent=1, allow_nan=False)
        _whole(path, lambda file: file.write(text.encode("utf-8")))

    @staticmethod
    def _size(path: Path) -> int | None:
        return path.stat().st_size if path.is_file() else None


def _whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes to a temporary file beside ``path``, onto the disk, then renames it."""
    part = path.with_name(f"{path.name}.{uuid4().hex}{PART}")
    with part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _hold(handle: IO[str], folder: Path) -> None:
    """Holds the folder's lock until ``handle`` is closed, or the process ends."""
    try:
        import fcntl
    except ImportError:  # Windows: two runs on one folder then do work twice, but each file is still whole
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        raise BadSetting(
            f"another run (process {handle.read().strip() or 'unknown'}) is writing to {folder}; wait for it, or give "
            "another folder"
        ) from None
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
