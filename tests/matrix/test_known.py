# SPDX-License-Identifier: Apache-2.0
"""How many labels an attacker knows is an axis of attacks and not of trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splitguard.matrix import COLUMNS, Matrix, Record
from splitguard.matrix import work as work_module
from splitguard.matrix.record import SPENT
from tests.matrix.toys import QUICK

LABELS: dict[str, Any] = {**QUICK, "mode": {"vanilla": {"labels": "server"}}, "attack": "gradient-norm"}


def matrix(known: Any) -> Matrix:
    return Matrix({**LABELS, "data": {**QUICK["data"], "known": known}})


def test_keys_without_it_stay_and_with_it_share_the_training() -> None:
    plain = Matrix(LABELS).cells[0].cell
    one, five = (resolved.cell for resolved in matrix([1, 5]).cells)
    assert (one.key(), one.deployment_key()) == (plain.key(), plain.deployment_key())
    assert "known" not in one.data
    assert five.key() != one.key()
    assert five.deployment_key() != one.deployment_key()
    assert five.session_key() == one.session_key() == five.twin().session_key()


def test_one_session_serves_them_and_each_is_told_its_own(tmp_path: Path) -> None:
    results = matrix([1, 3, 2]).run(tmp_path, progress=False)
    assert len(list((tmp_path / "sessions").iterdir())) == 1
    frame = results.frame[results.frame["phase"] == "training"]
    assert (frame["status"] == "ok").all()
    # 20 rows of client 0 and two classes: what is known is no victim.
    assert frame["n"].tolist() == [18, 14, 16]
    assert frame["dataset"].tolist() == ["faces", "faces, 3 known labels a class", "faces, 2 known labels a class"]
    work_module._opened.clear()
    alone = matrix([3]).run(tmp_path / "alone", progress=False).frame
    mine = alone[alone["phase"] == "training"].iloc[0]
    assert mine["leakage"] == frame.iloc[1]["leakage"]
    assert mine["key"] == frame.iloc[1]["key"]


def test_known_rows_are_counted_where_they_were_read_and_cost_no_key(tmp_path: Path) -> None:
    """20 rows of client 0 in two classes: k a class are 2 k; one who reads none spends none."""
    spec = {**LABELS, "data": {**QUICK["data"], "known": [1, 3]}, "attack": ["gradient-norm", "toy-labels"]}
    results = Matrix(spec).run(tmp_path, progress=False)
    frame = results.frame
    assert (frame["status"] == "ok").all()
    assert frame[frame["attack"] == "gradient-norm"]["known"].tolist() == [2, 6]
    assert set(frame[frame["attack"] == "toy-labels"]["known"]) == {0}
    assert {record.extra["budget"]["known"] for record in results.records} == {0, 2, 6}
    assert (frame["aux"] == 0).all()


def test_a_record_from_before_they_were_counted_has_no_number_of_them() -> None:
    cell = Matrix(LABELS).cells[0].cell
    budget = {"steps": 5, "queries": 6, "aux": 7, "seconds": 1.5}
    row = Record(cell, "training", "ok", extra={"budget": budget}).row()
    assert [row[name] for name in SPENT] == [5, 6, 7, None]
    refused = Record(cell, "training", "refused", "it cannot be done").row()
    assert [refused[name] for name in SPENT] == [None] * 4
    assert set(SPENT) <= set(COLUMNS)
