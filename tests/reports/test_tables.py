# SPDX-License-Identifier: Apache-2.0
"""The table of deployments, for the page, for notebooks and in Markdown."""

from __future__ import annotations

import re

import pytest

from splitguard.errors import BadSetting
from splitguard.matrix import Results
from splitguard.reports import markdown, table
from splitguard.reports.facts import Deployment
from splitguard.reports.tables import COLUMNS, NOT_EVALUATED
from splitguard.reports.words import FIXED, MISSING
from tests.reports.cases import CASES, NASTY

BY_KEY = {column.key: column for column in COLUMNS}


def test_every_deployment_has_a_row_and_every_number_its_own(results: Results, everyone: list[Deployment]) -> None:
    shown = table(results)
    assert list(shown.index) == [str(i) for i in range(1, len(CASES) + 1)]
    for d in everyone:
        text = shown.loc[str(d.number)]
        assert text["deployment"] == d.name
        if d.accuracy is not None:
            assert float(text["accuracy ↑"].split()[0]) == pytest.approx(100 * d.accuracy, abs=0.051)
        worst = d.worst("worst_input")
        if worst is not None:
            assert float(text["inputs ↓"].split()[0]) == pytest.approx(worst.value, abs=0.0051)


def test_what_is_missing_is_never_a_number(everyone: list[Deployment]) -> None:
    never_run, baseline = everyone[15], everyone[16]
    for key in ("accuracy", "drop", "client_params", "traffic"):
        entry = BY_KEY[key].entry(never_run)
        assert (entry.text, entry.sort, entry.missing) == (MISSING, None, True)
    for key in ("inputs", "reid", "labels"):
        for d in (never_run, baseline):
            entry = BY_KEY[key].entry(d)
            assert (entry.text, entry.sort) == (NOT_EVALUATED, None)
    assert BY_KEY["inputs"].entry(baseline).note == "nothing crosses a cut"
    assert BY_KEY["labels"].entry(everyone[0]).note == "labels are sent"
    assert not any(re.search(r"\b0\b", str(column.entry(never_run))) for column in COLUMNS)


def test_entries_sort_by_what_was_measured(everyone: list[Deployment]) -> None:
    for d in everyone:
        assert BY_KEY["inputs"].entry(d).sort == d.row.get("worst_input")
        assert BY_KEY["accuracy"].entry(d).sort == d.row.get("accuracy")
    sums = [BY_KEY["traffic"].entry(d).sort for d in everyone[:3]]
    assert sums == [7_776_000] * 3


def test_a_frozen_head_stands_beside_what_auxiliary_data_alone_reach(everyone: list[Deployment]) -> None:
    [frozen] = [d for d in everyone if "head frozen" in d.defense]
    accuracy = BY_KEY["accuracy"]
    assert accuracy.entry(frozen).note.split() == ["74.1", "%", "from", "auxiliary", "data", "alone"]
    assert accuracy.entry(everyone[0]).note == ""


def test_the_guarantee_says_its_scope(everyone: list[Deployment]) -> None:
    said = {d.number: BY_KEY["epsilon"].entry(d) for d in everyone}
    assert said[1].text == "none stated"
    assert said[4].note == "own messages only, δ = 1e-05".replace(" = ", f"{FIXED}={FIXED}")
    assert said[7].text == "no meaningful guarantee"
    assert "the whole view" in said[7].note
    assert said[16].text == MISSING


def test_markdown_is_one_table_whatever_is_named(results: Results) -> None:
    lines = markdown(results).splitlines()
    assert len(lines) == len(CASES) + 2
    unescaped = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert set(unescaped) == {9}
    assert NASTY not in "".join(lines)
    assert "&lt;script&gt;" in lines[17]
    assert "| 0.95 [0.91, 0.98] |" in lines[2]
    assert lines[1].replace("|", "").split() == ["---:", "---", *["---:"] * 6]


def test_markdown_takes_columns_by_name(results: Results) -> None:
    first = markdown(results, columns=["name", "labels"]).splitlines()
    assert first[0] == "| deployment | labels ↓ |"
    with pytest.raises(BadSetting, match=r"unknown column 'label'\. Did you mean 'labels'"):
        markdown(results, columns=["label"])
