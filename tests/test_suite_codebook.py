# SPDX-License-Identifier: Apache-2.0
"""The table of the codebook: gains are paired over seeds, every breaker has its column, old rows are marked."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from benchmarks.suite.codebook import codebook_rows, codebook_table
from splitguard.api import ATTACKS, DEFENSES
from splitguard.matrix import Record
from splitguard.matrix.cell import Plugin
from splitguard.matrix.summary import SUMMARY_COLUMNS, summarise
from splitguard.privacy import accuracy_bound_pure
from tests.suite_cell import CELL, VERSION

#: Of Student's t with 2 degrees of freedom, one-sided.
T95 = 2.919986
CODEBOOK: int = vars(DEFENSES.get("codebook"))["version"]
FROZEN: dict[str, Any] = {"head": "frozen", "pretrain_epochs": 40}
ASKED = replace(
    CELL,
    data={"name": "fashion-mnist", "aux": 2000, "clients": 5, "partition": "iid"},
    defense=(Plugin("codebook", version=CODEBOOK, settings={"epsilon": 4.0}, told={"epsilon": 4.0, "parts": 2}),),
    training=FROZEN,
)
SAID = {"mechanism": "2 x 16 words of a public codebook and subset selection, answered once", "channel": "inputs"}


def record(seed: int, accuracy: float, alone: float | None, leakage: float = 0.25, **more: Any) -> Record:
    values = {"accuracy": accuracy, "aux_accuracy": alone, "leakage": leakage, "epsilon": 4.0, "delta": 0.0}
    half = {"choose": leakage, "report": leakage, "low": None, "high": None}
    extra = {"guarantee_data": [SAID], "halves": {"leakage": half}}
    return Record(replace(ASKED, seed=seed, **more), "training", "ok", None, values, extra)


def known(attack: str) -> Plugin:
    """An attack of today's version."""
    return Plugin(attack, version=vars(ATTACKS.get(attack))["version"])


def rows(*records: Record) -> list[dict[str, Any]]:
    summary = pd.DataFrame(summarise(records), columns=SUMMARY_COLUMNS)
    return codebook_rows(SimpleNamespace(records=records, summary=summary))  # type: ignore[arg-type]  # all it reads


def three(accuracies: tuple[float, ...], alone: tuple[float | None, ...], **more: Any) -> list[Record]:
    return [record(7 + i, own, aux, **more) for i, (own, aux) in enumerate(zip(accuracies, alone, strict=True))]


def line_of(text: str, start: str) -> list[str]:
    """The fields of the last line that begins so."""
    found = [line for line in text.splitlines() if line.startswith(start)]
    return [field.strip() for field in found[-1].split("|")[1:-1]]


def test_the_gain_is_that_of_the_paired_t_test() -> None:
    own, alone = (0.60, 0.70, 0.81), (0.55, 0.66, 0.75)
    (row,) = rows(*three(own, alone))
    apart = [a - b for a, b in zip(own, alone, strict=True)]
    side = T95 * stdev(apart) / math.sqrt(3)
    assert row["gain"] == pytest.approx(mean(apart))
    assert row["gain_at_least"] == pytest.approx(mean(apart) - side, abs=1e-6)
    assert row["gain_at_most"] == pytest.approx(mean(apart) + side, abs=1e-6)
    text = codebook_table([row])
    assert "- 2,000 rows, 0.653: no mechanism below epsilon 2.8; the codebook is clearly above at epsilon 4" in text


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ((0.50, 0.61, 0.70), "clearly above nowhere, clearly below at epsilon 4"),
        ((0.54, 0.75, 0.72), "clearly above nowhere, clearly below nowhere"),
    ],
)
def test_what_is_not_clear_is_not_claimed(own: tuple[float, ...], said: str) -> None:
    assert said in codebook_table(rows(*three(own, (0.55, 0.66, 0.75))))


def test_without_labels_there_is_no_gain_and_no_claim() -> None:
    (row,) = rows(*three((0.5, 0.6, 0.7), (None, None, None), training={**FROZEN, "pretrain_epochs": 0}))
    assert (row["labelled"], row["gain"], row["gain_at_least"]) == (False, None, None)
    assert "no mechanism below" not in codebook_table([row])


def test_every_breaker_has_its_column_and_the_bound_stands_beside_the_accuracy() -> None:
    matched = {"attack": known("candidate-match"), "goal": "candidates"}
    own = three((0.6, 0.6, 0.6), (0.5, 0.5, 0.5))
    own += three((0.6, 0.6, 0.6), (0.5, 0.5, 0.5), leakage=0.5, attack=known("inverse-network"))
    for one in three((0.6, 0.6, 0.6), (0.5, 0.5, 0.5), **matched):
        one.values.update({"choice_accuracy": 0.125, "bound": 0.638})  # type: ignore[attr-defined]  # a dict here
        own.append(one)
    (row,) = rows(*own)
    fields = line_of(codebook_table([row]), "| 2,000, labelled |")
    bound = f"{accuracy_bound_pure(classes=10, epsilon=4.0):.3f}"
    assert fields[1:9] == ["codebook, parts=2", "2 x 16", "4", "0.600", bound, "0.500", "+0.100", "+0.100"]
    assert fields[9:] == ["0.250", "0.500", "0.500 by inverse-network (up to 0.500)", "0.125", "0.638"]


def test_no_bound_on_accuracy_where_epsilon_is_not_pure() -> None:
    (row,) = rows(*three((0.6, 0.6, 0.6), (0.5, 0.5, 0.5)))
    assert line_of(codebook_table([{**row, "delta": 1e-5}]), "| 2,000")[5] == ""
    none = {**row, "defense": "none, head frozen", "delta": None, "epsilon": None}
    assert line_of(codebook_table([none]), "| 2,000")[5] == ""


def test_rows_of_another_version_are_marked_and_named() -> None:
    (row,) = rows(*three((0.6, 0.6, 0.6), (0.5, 0.5, 0.5)))
    assert row["versions"] == {"white-box-inversion": VERSION, "codebook": CODEBOOK}
    assert line_of(codebook_table([row]), "| 2,000")[1] == "codebook, parts=2"
    old = codebook_table([{**row, "versions": {**row["versions"], "codebook": CODEBOOK + 1}}])
    assert line_of(old, "| 2,000")[1] == "codebook, parts=2 *"
    assert "\\* of an earlier version of codebook: to be run again." in old


def test_the_most_accurate_at_each_epsilon_and_the_sketch_beside_it() -> None:
    (row,) = rows(*three((0.6, 0.6, 0.6), (0.5, 0.5, 0.5)))
    told = [
        {**row, "defense": "codebook(epsilon=8, words=64), head frozen", "epsilon": 8.0, "accuracy": 0.7},
        {**row, "defense": "codebook, head frozen", "epsilon": 8.0, "accuracy": 0.8},
        {**row, "aux": 50, "defense": "codebook, head frozen", "epsilon": 8.0, "accuracy": 0.9},
        {**row, "defense": "none, head frozen", "epsilon": None, "delta": None, "accuracy": 0.85},
    ]
    text = codebook_table(told)
    best = text.split("## The most accurate")[1].split("##")[0]
    assert "0.700" not in best
    assert "0.850" not in best
    assert best.count("| 0.800 |") == best.count("| 0.900 |") == 1
    assert "- codebook at epsilon 8: 0.811, here 0.800\n" in text
    assert "- codebook at epsilon 6: 0.756, here not run\n" in text
    assert "- none: 0.860, here 0.850\n" in text
