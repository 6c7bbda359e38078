# SPDX-License-Identifier: Apache-2.0
"""The README's numbers are those of the stored runs, and the docs name what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks import evidence
from benchmarks.findings import table
from benchmarks.versions import named
from splitguard.api import Party, Profile
from splitguard.matrix import COLUMNS, SUMMARY_COLUMNS

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"


def test_the_readme_shows_the_stored_run() -> None:
    assert table() in README.read_text(encoding="utf-8")


def test_the_page_of_evidence_shows_the_stored_results() -> None:
    assert evidence.DOCS.read_text(encoding="utf-8") == evidence.page()


def test_a_number_of_an_earlier_version_is_marked() -> None:
    now = named("white-box-inversion", "nopeek")
    assert not evidence.outdated("nopeek", {"versions": now})
    assert evidence.outdated("nopeek", {"versions": now | {"white-box-inversion": now["white-box-inversion"] - 1}})
    assert evidence.outdated("nopeek", {})  # the attack has had others since its first
    assert not evidence.outdated("engine", {})


def test_the_line_of_an_unfinished_run_names_the_cuts_that_are_missing() -> None:
    found = json.loads(evidence.STORED.joinpath("reference_he_cifar.json").read_text(encoding="utf-8"))
    assert "not run" not in evidence.reference_he(found)
    part = {name: case for name, case in found["cases"].items() if name.endswith("conv11")}
    assert evidence.reference_he({**found, "cases": part}).endswith("; not run yet at relu22 and relu32")


def test_every_planted_bug_was_found_and_the_game_of_smashed_data_took_under_a_minute() -> None:
    found = json.loads(evidence.STORED.joinpath("estimate.json").read_text(encoding="utf-8"))
    games = [game for group in found["games"].values() for game in group]
    assert [game["mechanism"] for game in games if game["flagged"] != game["false"]] == []
    assert sum(game["false"] for game in found["games"]["smashed data"]) == 10
    assert found["what"].items() >= {"epsilon": 4.0, "T": 4, "batch": 32, "trials": 1000}.items()
    assert found["seconds"]["smashed data"] < 60


def test_noise_is_averaged_away_as_the_square_root_of_the_releases_says() -> None:
    found = json.loads(evidence.STORED.joinpath("averaging.json").read_text(encoding="utf-8"))
    assert found["met"]
    assert [case["T"] for case in found["frozen"]] == [1, 4, 16]
    for case in found["frozen"]:
        assert case["difference"]["low"] <= 0 <= case["difference"]["high"]
        assert abs(case["error_of_the_mean"] - 1) < 0.01


def test_the_guide_to_the_results_names_every_column() -> None:
    told = set(re.findall(r"`(\w+)`", DOCS.joinpath("report.md").read_text(encoding="utf-8")))
    worst = re.compile(r"worst_[a-z]+_(low|high|attack|phase|seeds)")
    assert {c for c in (*COLUMNS, *SUMMARY_COLUMNS) if not worst.fullmatch(c)} - told == set()


def test_the_threat_model_names_every_profile_and_party() -> None:
    told = DOCS.joinpath("threat-model.md").read_text(encoding="utf-8")
    assert all(f"| `{profile}` |" in told for profile in Profile)
    assert all(f"| {party}" in told for party in Party)
