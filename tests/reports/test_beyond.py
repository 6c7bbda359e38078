# SPDX-License-Identifier: Apache-2.0
"""Attributes, membership and stolen networks stand in the page with what is had without them; other runs lack it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from splitguard.matrix import Cell, Plugin, Record, Store, load
from splitguard.matrix.record import phases
from splitguard.metrics.stats import clopper_pearson, t_interval
from splitguard.reports import write_report
from splitguard.reports.beyond import Finding, Panel, beyond, heading
from splitguard.reports.facts import Deployment
from splitguard.reports.gaps import gaps
from splitguard.reports.gather import deployments
from tests.reports.cases import CASES, ENVIRONMENT, NASTY, cells
from tests.reports.runs import write_run
from tests.reports.test_page import Reader

#: What each attack reaches with seed 0.
REACHED: Mapping[str, Mapping[str, Any]] = {
    "attribute": {
        "attribute_accuracy": 0.55, "balanced_accuracy": 0.5, "blind": 0.2, "leakage": 0.375, "leakage_low": 0.25,
        "leakage_high": 0.5, "n": 40,
    },
    "membership": {
        "membership_auc": 0.6, "membership_tpr": 0.1, "membership_tpr_low": 0.03, "membership_tpr_high": 0.24,
        "blind": 0.5, "leakage": 0.2, "leakage_low": -0.1, "leakage_high": 0.4, "n": 80,
    },
    "functionality": {
        "stolen_accuracy": 0.7, "stolen_low": 0.6, "stolen_high": 0.79, "deployed_accuracy": 0.85, "blind": 0.6,
        "leakage": 0.4, "leakage_low": 0.1, "leakage_high": 0.6, "n": 1000,
    },
}  # fmt: skip
ATTACKS = {"attribute": "attribute", "membership": "membership", "functionality": NASTY}
FIRST = (0, 1, 3)  # cases that are run: two undefended, one defended


def write(folder: Path, *, seeds: tuple[int, ...] = (0,), changed: Mapping[str, Any] | None = None) -> Path:
    """A run folder: two deployments with three attacks each, a third where one is refused, and one that was not run."""
    store, every = Store(folder), []
    with store.lock(), mock.patch("os.fsync"):
        for number, case in enumerate((*(CASES[i] for i in FIRST), CASES[4])):
            for cell in (c for seed in seeds for c in three(next(cells(case, seed)))):
                every.append(cell)
                for phase in phases(cell.goal) if number < len(FIRST) else ():
                    store.write(record(cell, phase, refused=number == 2 and cell.goal == "membership", changed=changed))
        told = {"title": None, "demonstration": False, "key_version": 1, "environment": ENVIRONMENT, "seeds": [*seeds]}
        store.write_matrix({**told, "cells": [cell.to_json() for cell in every]})
    return folder


def three(cell: Cell) -> list[Cell]:
    return [replace(cell, attack=Plugin(name), goal=goal) for goal, name in ATTACKS.items()]


def record(cell: Cell, phase: str, *, refused: bool, changed: Mapping[str, Any] | None) -> Record:
    if refused:
        return Record(cell, phase, "refused", "nobody can know", {"accuracy": 0.8}, {}, ENVIRONMENT)
    values = {**REACHED[cell.goal], **{k: v for k, v in (changed or {}).items() if k in REACHED[cell.goal]}}
    step = 0.03 * cell.seed
    moved = {k: v + step if isinstance(v, float) and k != "blind" else v for k, v in values.items()}
    return Record(cell, phase, "ok", None, {"accuracy": 0.84, **moved}, {}, ENVIRONMENT)


def everyone(folder: Path) -> list[Deployment]:
    return deployments(load(folder))


def first(panels: list[Panel], name: str) -> tuple[Panel, Finding]:
    [panel] = [p for p in panels if p.name == name]
    return panel, panel.findings[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = write(tmp_path_factory.mktemp("beyond") / "run")
    write_report(out)
    return out


@pytest.fixture(scope="module")
def read(folder: Path) -> Reader:
    return Reader((folder / "report.html").read_text(encoding="utf-8"))


def test_each_goal_has_its_numbers_beside_what_is_had_without_the_attack(folder: Path) -> None:
    panels = beyond(everyone(folder))
    shown = {
        panel.name: {m.title: str(e) for m, e in zip(panel.measures, panel.findings[0].entries, strict=True)}
        for panel in panels
    }
    right = clopper_pearson(22, 40)
    fixed = "\N{NO-BREAK SPACE}%"
    assert shown == {
        "attribute": {
            "balanced accuracy ↓": f"50.0{fixed}",
            "prior": f"20.0{fixed}",
            "accuracy ↓": f"55.0{fixed} [{100 * right.low:.1f}, {100 * right.high:.1f}]",
            "leakage ↓": "0.38 [0.25, 0.50]",
        },
        "membership": {
            "AUC ↓": "0.60 [0.45, 0.70]",
            "chance": "0.50",
            "found at 1 % FPR ↓": f"10.0{fixed} [3.0, 24.0]",
            "leakage ↓": "0.20 [\N{MINUS SIGN}0.10, 0.40]",
        },
        "functionality": {
            "stolen ↓": f"70.0{fixed} [60.0, 79.0]",
            "trained alone": f"60.0{fixed}",
            "deployed": f"85.0{fixed}",
            "leakage ↓": "0.40 [0.10, 0.60]",
        },
    }
    assert [panel.findings[0].n for panel in panels] == ["40", "80", "1\N{NARROW NO-BREAK SPACE}000"]
    assert heading(panels) == "Attributes, membership and stolen networks"


def test_rows_are_those_that_finished_and_the_others_are_named_with_the_reason(folder: Path) -> None:
    panels = {panel.name: panel for panel in beyond(everyone(folder))}
    places = {name: [(f.deployment.number, f.whom) for f in panel.findings] for name, panel in panels.items()}
    both = [f"{kind} victims, 1 seed" for kind in ("member", "query")]
    assert places == {
        "attribute": [(number, whom) for number in (1, 2, 3) for whom in both],
        "membership": [(1, "1 seed"), (2, "1 seed")],
        "functionality": [(number, "1 seed") for number in (1, 2, 3)],
    }
    assert panels["attribute"].unknown == "Not evaluated: #4 (not run yet)."
    assert panels["membership"].unknown == "Not evaluated: #3 (refused), #4 (not run yet)."
    [unknown] = [group for group in gaps(everyone(folder)) if group.title == "Not evaluated"]
    found = {(gap.what, gap.reason): gap.where for gap in unknown.gaps}
    assert found["leakage of membership", "refused"] == "#3"
    assert found["leakage of the network's function", "not run yet"] == "#4"


def test_over_seeds_it_is_the_mean_with_students_interval_within_what_is_possible(tmp_path: Path) -> None:
    many = everyone(write(tmp_path / "run", seeds=(0, 1, 2)))
    _, found = first(beyond(many), "functionality")
    over = t_interval([0.7, 0.73, 0.76])
    assert over is not None
    assert found.entries[0].sort == pytest.approx(0.73)
    assert found.entries[0].interval == f"[{100 * over.low:.1f}, {100 * over.high:.1f}]"
    assert found.whom == "3 seeds"
    _, read = first(beyond(many), "attribute")
    assert read.entries[0].interval != "", "one seed has no interval of the balanced accuracy, three have"
    assert read.entries[1].interval == ""
    certain = everyone(write(tmp_path / "certain", seeds=(0, 10), changed={"stolen_accuracy": 0.7}))
    _, found = first(beyond(certain), "functionality")
    assert found.entries[0].interval.endswith("100.0]"), "70 % and 100 %: Student's t would say 275 %"
    assert found.entries[0].interval.startswith("[0.0,")


def test_what_is_missing_is_a_dash_and_never_zero(tmp_path: Path) -> None:
    without = {"leakage": None, "leakage_low": None, "leakage_high": None, "membership_tpr": None, "n": None}
    folder = write(tmp_path / "run", changed={**without, "membership_auc": None})
    panels = beyond(everyone(folder))
    _, found = first(panels, "membership")
    assert [str(entry) for entry in found.entries] == ["—", "0.50", "—", "—"]
    assert (found.gauge, found.n) == ("", "—")
    write_report(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    row = html[html.index('id="goal-membership"') :].split("<tbody>")[1].split("</tr>")[0]
    said = [" ".join(Reader(cell).text.split()) for cell in re.findall(r"<td.*?</td>", row, flags=re.DOTALL)]
    assert said == ["1", "membership 1 seed", "—", "—", "0.50", "—", "—", "—"]


def test_the_gauge_reads_out_what_is_compared(folder: Path) -> None:
    panels = beyond(everyone(folder))
    said = {p.name: re.findall(r'aria-label="([^"]*)"', p.findings[0].gauge)[0] for p in panels}
    assert said == {
        "attribute": "0.50, prior 0.20, no bound",
        "membership": "0.60, interval 0.45 to 0.70, chance 0.50, no bound",
        "functionality": "0.70, interval 0.60 to 0.79, trained alone 0.60, deployed 0.85",
    }


def test_the_page_shows_them_and_escapes_what_users_name(folder: Path, read: Reader) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    section = html[html.index('<section id="beyond">') :].split("</section>")[0]
    assert NASTY not in section
    assert NASTY in Reader(section).text
    assert section.count("<tr><td") == 6 + 2 + 3
    assert section.count('<svg class="gauge"') == 6 + 2 + 3
    assert "Attributes, membership and stolen networks" in read.text
    assert any(link.get("href") == "#beyond" for link in read.all("a"))
    assert all(th.get("scope") in ("col", "row") for th in read.all("th"))
    heads = section.split("<thead>")[1].split("</thead>")[0].count("<th ")
    cells = section.split("<tbody>")[1].split("</tr>")[0]
    assert heads == cells.count("<td") + cells.count("<th ")


def test_a_run_without_these_goals_has_no_section_and_no_gap(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", cases=CASES[:1], seeds=[0])
    assert beyond(everyone(folder)) == []
    write_report(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert 'href="#beyond"' not in html
    assert 'id="beyond"' not in html
    assert "leakage of membership" not in html
