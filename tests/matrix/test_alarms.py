# SPDX-License-Identifier: Apache-2.0
"""Alarms in records, summary and report: when, after how many rows, whether rightly; nothing without a detector."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from splitguard.matrix import COLUMNS, Cell, Matrix, Record, Results
from splitguard.matrix.alarms import SUMMED_ALARMS, Watch, summed_alarms, watched
from splitguard.matrix.cell import Plugin
from splitguard.reports import write_report
from splitguard.reports.alarms import noticed
from splitguard.reports.gather import deployments
from tests.matrix.toys import QUICK

#: Five batches of 8 rows from one client; a window of 4, so that it judges after steps 3 and 4.
FIVE = {
    **QUICK,
    "data": {**QUICK["data"], "clients": 1, "victims": {"member": 12, "query": 6}},
    "train": {**QUICK["train"], "batch_size": 8},
    "profile": "active",
}
JUMPY = {"gradient-scrutinizer": {"window": 4, "threshold": 0.999999}}
PATIENT = {"gradient-scrutinizer": {"window": 4, "threshold": 0.000001}}
DOZING = {"gradient-scrutinizer": {"window": 4, "warm_up": 9}}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    from splitguard.api import ATTACKS
    from tests.matrix.toys import TOYS

    ATTACKS.load()
    with pytest.MonkeyPatch.context() as patch:
        for name, toy in TOYS.items():
            patch.setitem(ATTACKS._found, name, toy)
            patch.setattr(toy, "name", name)
        matrix = Matrix(
            {
                **FIVE,
                "attack": ["toy-noise", "toy-shrinks"],
                "defense": ["none", JUMPY, PATIENT, DOZING],
                "seeds": [0],
            }
        )
        return matrix.run(tmp_path_factory.mktemp("alarms"), progress=False)


def rows(results: Results, defense: dict[str, Any] | str, attack: str = "toy-noise") -> pd.DataFrame:
    frame = results.frame
    if isinstance(defense, dict):
        ((name, settings),) = defense.items()
        defense = f"{name}({', '.join(f'{k}={v}' for k, v in settings.items())})"
    found = frame[(frame["defense"] == defense) & (frame["attack"] == attack)]
    assert len(found) == 2
    return found


def test_columns_follow_the_fixed_ones_and_are_empty_without_a_detector(results: Results) -> None:
    further = list(results.frame.columns[len(COLUMNS) :])
    names = ["alarm_judgements", "alarm_raised", "alarm_rows", "alarm_step", "alarm_stopped"]
    assert [name for name in further if name.startswith("alarm")] == names
    assert rows(results, "none")[names].isna().all(axis=None)
    assert results.summary.loc[results.summary["defense"] == "none", list(SUMMED_ALARMS)].isna().all(axis=None)


@pytest.mark.parametrize("attack", ["toy-noise", "toy-shrinks"])
def test_an_alarm_is_a_step_a_number_of_rows_and_an_end(results: Results, attack: str) -> None:
    found = rows(results, JUMPY, attack)
    assert (found["status"] == "ok").all()
    assert found["alarm_raised"].all()
    assert found["alarm_stopped"].all()
    assert set(found["alarm_step"]) == {3}
    assert set(found["alarm_rows"]) == {32}  # four batches of 8, each row once
    members = found.loc[found["phase"] == "training", "n"]
    assert (members < 12).all()  # eight rows of forty were never sent, and some of them are victims
    assert (found["active"] == (attack == "toy-shrinks")).all()


def test_no_alarm_has_no_step_and_no_rows(results: Results) -> None:
    found = rows(results, PATIENT)
    assert not found[["alarm_raised", "alarm_stopped"]].any(axis=None)
    assert found[["alarm_step", "alarm_rows"]].isna().all(axis=None)
    assert set(found["alarm_judgements"]) == {2}
    assert set(rows(results, DOZING)["alarm_judgements"]) == {0}


def test_the_summary_tells_right_alarms_from_false_ones(results: Results) -> None:
    told = [tuple(row) for row in results.summary[list(SUMMED_ALARMS)].astype(object).to_numpy()]
    assert told[1] == (1, 1, 3, 32, 1, 1)
    for quiet in (told[2], told[3]):
        assert quiet[:2] + quiet[4:] == (1, 0, 1, 0)
        assert all(pd.isna(value) for value in quiet[2:4])


def test_the_report_says_of_each_detector_what_it_noticed(results: Results) -> None:
    said = [(n.deployment.number, n.server, n.verdict, n.wrong) for n in noticed(deployments(results))]
    assert said == [  # and nothing of deployment 1, which has no detector
        (2, "honest", "alarm in 1 of 1 session: false", True),
        (2, "toy-shrinks", "alarm in 1 of 1 session", False),
        (3, "honest", "no alarm in 1 session", False),
        (3, "toy-shrinks", "no alarm in 1 session: missed", True),
        (4, "honest", "never judged in 1 session: too short for its warm-up or window", False),
        (4, "toy-shrinks", "never judged in 1 session: too short for its warm-up or window", True),
    ]
    write_report(results.folder)
    page = (results.folder / "report.html").read_text(encoding="utf-8")
    assert '<section id="alarms">' in page
    assert "alarm in 1 of 1 session: false" in page


def test_records_of_one_session_count_once_and_medians_are_over_alarms() -> None:
    after = Matrix({**FIVE, "attack": "candidate-match", "defense": PATIENT}).cells[0].cell
    seat = replace(after, attack=Plugin("fsha"), active=True)

    def told(cell: Cell, seed: int, step: int | None, phase: str = "training", stopped: bool = False) -> Record:
        columns = {
            "alarm_judgements": 9,
            "alarm_raised": step is not None,
            "alarm_step": step,
            "alarm_rows": None if step is None else 10 * step,
            "alarm_stopped": stopped,
        }
        return Record(replace(cell, seed=seed), phase, "ok", values=columns)

    found = watched(
        [
            told(seat, 0, 4, stopped=True),
            told(seat, 0, 4, "query", stopped=True),  # the other phase of the same session
            told(seat, 1, None),
            told(seat, 2, 8),
            Record(replace(seat, seed=3), "training", "failed", values={"accuracy": 0.5}),  # a training that broke
            told(after, 0, None),
            told(replace(after, attack=Plugin("exploit")), 0, None),  # another attack on the same session
            told(after, 1, 2),
        ]
    )
    assert found == [
        Watch(None, 2, 2, (2,), (20,), 0),
        Watch("fsha", 3, 3, (4, 8), (40, 80), 1),
    ]
    assert tuple(summed_alarms(found).values()) == (3, 2, 6, 60, 2, 1)
    assert set(summed_alarms([]).values()) == {None}
