# SPDX-License-Identifier: Apache-2.0
"""The run folder: whole files or none, damage is noticed and redone, one writer at a time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from splitguard.errors import BadSetting, DataUnavailable
from splitguard.matrix.outcome import Outcome
from splitguard.matrix.record import Record
from splitguard.matrix.store import Store
from tests.matrix.test_cell import CELL

OK = Record(CELL, "training", "ok", values={"ssim": 0.5})
ARRAYS = {"guess": np.arange(12, dtype=np.uint8).reshape(1, 1, 3, 4), "score_ssim": np.array([0.5])}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    out = Store(tmp_path / "run")
    with out.lock():
        return out


def test_a_record_and_its_victims_come_back(store: Store) -> None:
    store.write(OK, ARRAYS)
    found = store.record(CELL, "training")
    assert found is not None
    assert found.values == OK.values
    assert found.cell == CELL
    victims = store.victims(found)
    assert victims is not None
    assert all(np.array_equal(victims[name], value) for name, value in ARRAYS.items())
    assert store.finished(CELL, "training")
    assert not store.finished(CELL, "query")


def test_every_prefix_of_a_record_is_noticed(store: Store) -> None:
    store.write(OK, ARRAYS)
    path = store.folder / "records" / f"{OK.name}.json"
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        assert store.record(CELL, "training") is None
        assert not store.finished(CELL, "training")
    for damage in (b"[]", b"null", b'{"format": 1}', b"\xff\xfe", b"3", whole.replace(b'"seed": 11', b'"seed": 12')):
        path.write_bytes(damage)
        assert store.record(CELL, "training") is None


def test_cut_off_victims_are_noticed(store: Store) -> None:
    store.write(OK, ARRAYS)
    path = store.victims_path(OK)
    path.write_bytes(path.read_bytes()[:-1])
    assert not store.finished(CELL, "training")
    assert store.victims(OK) is None
    path.unlink()
    assert not store.finished(CELL, "training")


def test_failed_records_are_tried_again_and_refused_ones_are_not(store: Store) -> None:
    store.write(Record(CELL, "training", "failed", "broke"))
    store.write(Record(CELL, "query", "refused", "makes no sense"))
    assert not store.finished(CELL, "training")
    assert store.finished(CELL, "query")


def save(folder: Path) -> None:
    folder.mkdir()
    (folder / "network").write_bytes(b"12345")


def test_a_session_appears_whole_and_damage_is_noticed(store: Store) -> None:
    assert store.outcome("k") is None
    store.save_session("k", save, Outcome({"accuracy": 0.5}, {"training": 3}))
    outcome = store.outcome("k")
    assert outcome is not None
    assert outcome.columns("training") == {"accuracy": 0.5, "releases": 3}
    assert outcome.columns("query") == {"accuracy": 0.5, "releases": None}
    (store.session("k") / "network").write_bytes(b"1234")
    assert store.outcome("k") is None
    store.save_session("k", save, Outcome({"accuracy": 0.75}, {}))  # a damaged one is replaced
    assert (store.outcome("k") or outcome).values == {"accuracy": 0.75}


def test_a_whole_session_is_not_replaced(store: Store) -> None:
    store.save_session("k", save, Outcome({"accuracy": 0.5}, {}))
    store.save_session("k", save, Outcome({"accuracy": 0.75}, {}))
    outcome = store.outcome("k")
    assert outcome is not None
    assert outcome.values == {"accuracy": 0.5}
    assert [p.name for p in (store.folder / "sessions").iterdir()] == ["k"]


def test_a_session_that_breaks_while_saved_leaves_nothing_that_counts(store: Store) -> None:
    def breaks(folder: Path) -> None:
        save(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.save_session("k", breaks, Outcome({}, {}))
    assert store.outcome("k") is None
    with store.lock():  # the next run clears what is left
        assert list((store.folder / "sessions").iterdir()) == []


def test_one_run_at_a_time(store: Store) -> None:
    wanted = rf"another run \(process {os.getpid()}\) .* give another folder"
    with store.lock(), pytest.raises(BadSetting, match=wanted), Store(store.folder).lock():
        pass
    with store.lock():  # held no longer
        pass


def test_a_folder_without_a_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="holds no run that can be read"):
        Store(tmp_path).matrix()
    (tmp_path / "matrix.json").write_text("{")
    with pytest.raises(DataUnavailable, match="holds no run"):
        Store(tmp_path).matrix()


def test_numbers_that_are_not_finite_never_reach_a_file(store: Store) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write(Record(CELL, "training", "ok", extra={"x": float("inf")}))
    assert store.record(CELL, "training") is None
    store.write(Record(CELL, "training", "ok", values={"x": float("inf")}))
    assert json.loads((store.folder / "records" / f"{OK.name}.json").read_text())["values"] == {"x": None}
