# SPDX-License-Identifier: Apache-2.0
"""Attacks that ride on a training: those in a seat have one of their own, those that watch share the honest one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from splitguard.matrix import Store
from tests.matrix.toys import numbers, one, run


def test_attacks_in_the_servers_seat_have_a_training_of_their_own(tmp_path: Path, trained: list[str]) -> None:
    results = run(tmp_path, attack=["toy-noise", "toy-shrinks"], profile="active")
    assert len(set(trained)) == len(trained) == 2
    honest, active = (
        next(r for r in results.records if r.cell.attack.name == f"toy-{n}") for n in ("noise", "shrinks")
    )
    assert active.cell.active
    assert active.status == "ok"
    assert honest.extra["digest"] != active.extra["digest"]
    run(tmp_path, attack=["toy-noise", "toy-shrinks"], profile="active")
    assert len(trained) == 2


def test_a_deployment_that_only_active_attacks_met_is_trained_honestly_too(tmp_path: Path, trained: list[str]) -> None:
    results = run(tmp_path / "active", attack="toy-shrinks", profile="active", defense={"gaussian": {"epsilon": 200}})
    assert len(set(trained)) == len(trained) == 3  # attacked; honest; honest without a defense
    both = run(
        tmp_path / "both", attack=["toy-noise", "toy-shrinks"], profile="active", defense={"gaussian": {"epsilon": 200}}
    )
    (alone,), (beside,) = results.summary.to_dict("records"), both.summary.to_dict("records")
    for column in ("accuracy", "accuracy_drop", "usable", "epsilon_rows", "client_params"):
        assert alone[column] == beside[column] is not None
    active = next(r for r in results.records if r.cell.active)
    assert active.extra["digest"] != active.extra["honest"]["extra"]["digest"]
    shutil.rmtree(tmp_path / "active" / "sessions")  # what the records say stays where the sessions are gone
    again = run(tmp_path / "active", attack="toy-shrinks", profile="active", defense={"gaussian": {"epsilon": 200}})
    pd.testing.assert_frame_equal(again.summary, results.summary)
    pd.testing.assert_frame_equal(again.frame, results.frame)
    assert len(trained) == 6


def test_a_watching_attack_joins_a_fresh_training_or_plays_it_again_to_the_same_bits(
    tmp_path: Path, trained: list[str]
) -> None:
    joined = run(tmp_path / "joined", attack=["toy-noise", "toy-watches"])
    assert len(trained) == 1
    alone = run(tmp_path / "added")
    added = run(tmp_path / "added", attack=["toy-noise", "toy-watches"])
    assert trained[1:] == [trained[0]] * 2
    assert list((tmp_path / "added" / "sessions").glob("*.checkpoint")) == []
    pd.testing.assert_frame_equal(numbers(joined), numbers(added))
    pd.testing.assert_frame_equal(numbers(alone), numbers(joined)[numbers(joined)["attack"] == "toy-noise"])
    watched = next(r for r in added.records if r.cell.attack.name == "toy-watches")
    assert watched.extra["tuned"] == {"seen": 4}  # 40 rows of 2 clients, 16 at once


def test_a_replay_that_ends_elsewhere_is_a_failure(tmp_path: Path) -> None:
    first = run(tmp_path)
    store = Store(tmp_path)
    (key,) = (p.name for p in (tmp_path / "sessions").iterdir())
    path = store.session(key) / "outcome.json"
    path.write_text(path.read_text().replace(str(first.records[0].extra["digest"]), "0123456789abcdef"))
    results = run(tmp_path, attack="toy-watches")
    assert set(results.frame["status"]) == {"failed"}
    assert "must end at the parameters 0123456789abcdef" in results.frame["reason"].iloc[0]


def test_a_replay_that_breaks_costs_the_others_nothing(tmp_path: Path) -> None:
    run(tmp_path)
    results = run(tmp_path, attack=[{"toy-noise": {"scale": 3}}, {"toy-watches": {"breaks_at": 2}}])
    assert set(results.frame[results.frame["attack"] == "toy-noise(scale=3)"]["status"]) == {"ok"}
    assert set(results.frame[results.frame["attack"] == "toy-watches(breaks_at=2)"]["status"]) == {"failed"}


def test_a_watching_attack_that_breaks_does_not_cost_the_others_their_session(tmp_path: Path) -> None:
    results = run(tmp_path, attack=["toy-noise", {"toy-watches": {"breaks_at": 2}}])
    assert set(results.frame[results.frame["attack"] == "toy-noise"]["status"]) == {"ok"}
    broke = one(results, attack="toy-watches(breaks_at=2)", phase="query")
    assert (broke["status"], broke["reason"]) == ("failed", "RuntimeError: watched too closely")


def test_knowing_a_defense_that_tells_nothing_changes_nothing(tmp_path: Path) -> None:
    """The two attackers draw alike, so that what lies between them is what they know."""
    frame = run(tmp_path, adaptive=[True, False], defense="deeper-cut").frame
    knowing, static = (frame[frame["adaptive"] == adaptive].reset_index(drop=True) for adaptive in (True, False))
    assert len(knowing) == 2
    assert (knowing["key"] != static["key"]).all()
    pd.testing.assert_series_equal(knowing["ssim"], static["ssim"])
