# SPDX-License-Identifier: Apache-2.0
"""The table of auxiliary rows: every attack has its line, every kind of rows its column, what is missing no number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from benchmarks.suite import __main__ as suite
from benchmarks.suite.realism import auxiliary, realism_rows, realism_table
from splitguard.api import ATTACKS
from splitguard.data import DataSpec
from splitguard.matrix import Record
from splitguard.matrix.cell import Plugin
from tests.suite_cell import CELL


def named(attack: str) -> Plugin:
    return Plugin(attack, version=vars(ATTACKS.get(attack))["version"])


DATA: dict[str, Any] = {"name": "faces", "aux": 2000, "aux_classes": None, "clients": 2, "partition": "iid"}
ASKED = replace(CELL, data=DATA, attack=named("query-free"), seed=7)


def measured(leakage: float | None, phase: str = "training", status: Any = "ok", **more: Any) -> Record:
    low, high = (None, None) if leakage is None else (leakage - 0.1, leakage + 0.1)
    values = {"leakage": leakage, "leakage_low": low, "leakage_high": high, "ssim": 0.3, "blind": 0.14}
    return Record(replace(ASKED, **more), phase, status, values=values if status == "ok" else {})


def rows(*records: Record) -> list[dict[str, Any]]:
    return realism_rows(SimpleNamespace(records=records))  # type: ignore[arg-type]  # all that it reads


def test_kinds_of_rows_are_told_apart() -> None:
    kinds = [
        auxiliary(DATA),
        auxiliary({**DATA, "aux": 50}),
        auxiliary({**DATA, "aux_classes": [0, 1]}),
        auxiliary({**DATA, "aux_source": {"name": "mnist", "path": None}}),
    ]
    assert kinds == ["2,000", "50", "2,000, of 2 classes", "2,000 from mnist"]


def test_attacks_go_down_and_kinds_of_rows_across() -> None:
    few, other = {**DATA, "aux": 50}, named("sdar")
    found = rows(
        measured(0.5), measured(0.25, data=few), measured(-0.25, attack=other), measured(0.9, phase="query"),
        measured(None, attack=other, data=few, status="failed"), measured(None, attack=named("fsha"), data=few),
    )  # fmt: skip
    assert len(found) == 5, "query victims are left out"
    lines = [line for line in realism_table(found).splitlines() if line.startswith("|")]
    assert lines == [
        "| attack | 2,000 | 50 |",
        "| --- | --- | --- |",
        "| query-free | 0.50 [0.40, 0.60] | 0.25 [0.15, 0.35] |",
        "| sdar | -0.25 [-0.35, -0.15] | failed |",
        "| fsha | not run |  |",
        "| attack | 2,000 | 50 |",
        "| --- | --- | --- |",
        "| query-free | 0.30 | 0.30 |",
        "| sdar | 0.30 |  |",
        "| fsha |  | 0.30 |",
        "| blind guess | 0.14 | 0.14 |",
    ]


def test_a_number_of_an_earlier_version_is_marked() -> None:
    (row,) = rows(measured(0.5))
    assert row["versions"] == {"query-free": ASKED.attack.version}
    old = {**row, "versions": {"query-free": int(vars(ATTACKS.get("query-free"))["version"]) - 1}}
    shown = realism_table([old])
    assert "| 0.50 [0.40, 0.60] * |" in shown
    assert "to be run again" in shown


def test_intervals_over_victims_are_not_mixed_over_seeds() -> None:
    with pytest.raises(ValueError, match=r"wanted rows of one seed; got seeds \[7, 8\]"):
        realism_table(rows(measured(0.5), measured(0.4, seed=8)))


def test_the_matrix_varies_the_attackers_rows_and_nothing_else() -> None:
    told = yaml.safe_load((Path(suite.__file__).parent / "realism.yaml").read_text())
    specs = [DataSpec.parse({**told["data"], **block["data"], "aux": 7}) for block in told["blocks"]]
    apart = ("aux", "aux_classes", "aux_source")
    plain = [{k: v for k, v in spec.as_dict().items() if k not in apart} for spec in specs]
    assert plain == [plain[0]] * len(told["blocks"])
    assert told["blocks"][0]["data"] == {"aux": [50, 500, 2000]}
    assert all(set(block["data"]) <= set(apart) for block in told["blocks"])
