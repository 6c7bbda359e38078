# SPDX-License-Identifier: Apache-2.0
"""The table of attacks: each goal with its own measures, what was not measured empty; pages are those stored."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.suite import __main__ as suite
from benchmarks.suite.attacks import METRICS, attack_rows, attack_table
from splitguard.api import ATTACKS, Goal
from splitguard.matrix import Matrix, Record

CELLS = functools.cache(lambda: [resolved.cell for resolved in Matrix.from_file(suite.HERE / "attacks.yaml").cells])
STORED = sorted(path.stem for path in (suite.HERE / "results").glob("*.json"))


def made(status: Any = "ok", **values: Any) -> list[Record]:
    """A record of each cell of the file."""
    budget = {"steps": 5, "seconds": 1.25, "queries": 0, "aux": 2000, "known": 30}
    reason = None if status == "ok" else "it cannot be done"
    return [Record(cell, "training", status, reason, values, {"budget": budget} if values else {}) for cell in CELLS()]


def table(records: list[Record]) -> str:
    return attack_table(attack_rows(SimpleNamespace(records=records)))  # type: ignore[arg-type]  # all that it reads


def test_every_goal_has_its_measures_and_every_attack_its_line() -> None:
    assert set(METRICS) == {goal.value for goal in Goal}
    records = made(
        ssim=0.5,
        blind=0.25,
        label_accuracy=0.75,
        label_cluster_accuracy_oracle=0.875,
        leakage=0.125,
        leakage_low=0.1,
        leakage_high=0.2,
    )
    text = table(records)
    for record in records:
        assert text.count(f"\n| {record.cell.attack} | ") == 1
    assert "| unsplit | vanilla, conv2 |" in text
    assert "| 0.500 | 0.250 |  |  | 0.125 [0.10, 0.20] | 1.2 | 5 |  | 2000 | 30 |" in text
    assert "| 0.750 | 0.875 | 0.125 [0.10, 0.20] | 1.2 | 5 |  | 2000 | 30 |" in text


def test_attacks_at_equal_budget_stand_apart_from_those_with_their_defaults() -> None:
    text = table(made(leakage=0.5))
    ordinary, equal = text.split("## After inputs, at about 1,000 steps")
    equal = equal.split("## After")[0]
    names = [record.cell.attack.name for record in made() if record.cell.attack.told]
    assert len(names) == 8
    for name in names:
        assert f"\n| {name} | " in ordinary + text.split(equal)[1]
        assert f"\n| {name}(" in equal
    assert f"\n| {names[0]} | " not in equal


def test_known_rows_that_nobody_counted_are_no_number() -> None:
    """Rows stored before they were counted say nothing of them."""
    rows = attack_rows(SimpleNamespace(records=made(leakage=0.5)))  # type: ignore[arg-type]  # all that it reads
    before = [{name: value for name, value in row.items() if name != "known"} for row in rows]
    told = attack_table(before)
    assert told.count("| 2000 |  |\n") == len(rows)
    assert attack_table(rows).count("| 2000 | 30 |\n") == len(rows)


def test_a_row_of_another_version_of_its_attack_or_of_none_is_marked() -> None:
    row, *_ = attack_rows(SimpleNamespace(records=made(leakage=0.5)))  # type: ignore[arg-type]  # all that it reads
    name = row["attack"]
    assert row["versions"] == {name: vars(ATTACKS.get(name))["version"]}
    assert f"| {name} | " in attack_table([row])
    assert "to be run again" not in attack_table([row])
    before = dict(row, versions={name: row["versions"][name] - 1})
    unknown = {part: value for part, value in row.items() if part != "versions"}
    for earlier in (before, unknown):
        assert f"| {name} * | " in attack_table([earlier])
        assert "to be run again" in attack_table([earlier])


@pytest.mark.parametrize("status", ["ok", "refused"])
def test_every_line_has_as_many_fields_as_its_head(status: str) -> None:
    width = 0
    for text in table(made(status)).splitlines():
        if text.startswith("|"):
            width = text.count("|") if text.startswith("| attack ") else width
            assert text.count("|") == width, text
    assert ("refused: it cannot be done" in table(made(status))) == (status == "refused")


def test_the_readme_quotes_the_codebooks_rows() -> None:
    rows = json.loads((suite.HERE / "results" / "codebook.json").read_text(encoding="utf-8"))
    quoted = (suite.DOCS.parent / "README.md").read_text(encoding="utf-8")
    passage = quoted[quoted.index("docs/codebook.md") :].split("##")[0]
    for aux, labelled, defense, column in [
        (2000, True, "codebook, head frozen", "accuracy"),
        (2000, True, "gaussian(epsilon=8), head frozen", "accuracy"),
        (2000, True, "codebook, head frozen", "aux_accuracy"),
        (2000, False, "codebook(space=plain), head frozen", "accuracy"),
        (2000, False, "codebook(epsilon=4, space=plain), head frozen", "accuracy"),
    ]:
        (row,) = (r for r in rows if (r["aux"], r["labelled"], r["defense"]) == (aux, labelled, defense))
        assert f"{row[column]:.3f}".removeprefix("0") in passage
    assert "against 20, 50 or 200 of them it is nowhere clearly better" in passage
    assert not [r for r in rows if r["labelled"] and r["defense"].startswith("codebook") and r["gain_at_least"] > 0]
    assert {r["aux"] for r in rows if r["labelled"]} == {20, 50, 200, 2000}


@pytest.mark.parametrize("name", STORED)
def test_the_page_is_that_of_the_stored_rows(name: str) -> None:
    rows = json.loads((suite.HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))
    _, made_of = suite.TABLES[name]
    assert (suite.DOCS / f"{name}.md").read_text(encoding="utf-8") == made_of(rows)


def test_no_coded_head_is_clearly_above_a_plain_one_as_the_page_says() -> None:
    found = json.loads((suite.HERE.parent / "results" / "coded_head.json").read_text(encoding="utf-8"))
    coded = [row for row in found["rows"] if row["head"] != "plain"]
    assert {(row["aux"], row["head"]) for row in coded} == {(a, h) for a in (50, 2000) for h in ("words", "channel")}
    assert found["epsilon"] == 4
    assert max(row["gain_at_least"] for row in coded) <= 0
    assert "it is nowhere clearly above a plain one" in (suite.DOCS / "codebook.md").read_text(encoding="utf-8")
