# SPDX-License-Identifier: Apache-2.0
"""A run: everything once, failures as records, resuming, and attacks that ride on a training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from splitguard.engine.session import Session
from splitguard.errors import BadSetting
from splitguard.matrix import COLUMNS, SUMMARY_COLUMNS, TIMINGS, Matrix, Results, Store, load
from splitguard.matrix import work as work_module
from tests.matrix.toys import QUICK, Noise

NOISE = {**QUICK, "attack": "toy-noise"}
GAUSSIAN = {"gaussian": {"epsilon": 8}}


def run(out: Path, **more: Any) -> Results:
    return Matrix({**NOISE, **more}).run(out, progress=False)


def one(results: Results, **columns: Any) -> pd.Series[Any]:
    """The only row with these values."""
    frame = results.frame
    for name, value in columns.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


def numbers(results: Results) -> pd.DataFrame:
    """All columns but those that differ from run to run."""
    return results.frame.drop(columns=list(TIMINGS))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sessions that were trained, in order."""
    seen: list[str] = []
    honest = work_module.SessionJob._train

    def counted(job: work_module.SessionJob, store: Store, key: str) -> None:
        seen.append(key)
        honest(job, store, key)

    monkeypatch.setattr(work_module.SessionJob, "_train", counted)
    return seen


def test_the_tables_have_the_columns_of_the_documentation_and_nothing_missing_is_zero(tmp_path: Path) -> None:
    results = run(tmp_path, defense=["none", GAUSSIAN])
    assert list(results.frame.columns[: len(COLUMNS)]) == list(COLUMNS)
    further = list(results.frame.columns[len(COLUMNS) :])
    assert further == sorted(further)
    assert list(results.summary.columns) == list(SUMMARY_COLUMNS)
    assert (results.frame["status"] == "ok").all()
    undefended = one(results, defense="none", phase="query")
    assert undefended[["epsilon", "epsilon_rows", "delta", "adjacency", "label_accuracy"]].isna().all()
    assert undefended["accuracy_drop"] == 0
    defended = one(results, defense="gaussian(epsilon=8)", phase="training")
    assert defended["epsilon_rows"] == pytest.approx(8)
    assert pd.isna(defended["epsilon"])  # the head is trained: no statement about the whole view
    assert defended["accuracy_drop"] == pytest.approx(undefended["accuracy"] - defended["accuracy"])
    assert (defended["releases"], undefended["releases"], defended["n"]) == (1, 1, 6)
    written = pd.read_csv(tmp_path / "results.csv", keep_default_na=False, dtype=str)
    row = written[(written["defense"] == "none") & (written["phase"] == "query")].iloc[0]
    assert (row["epsilon"], row["label_accuracy"], row["n"], row["seed"]) == ("", "", "6", "0")
    assert list(pd.read_csv(tmp_path / "summary.csv").columns) == list(SUMMARY_COLUMNS)


def test_consecutive_attacks_load_a_session_once_and_one_trained_anew_is_loaded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    honest = Session.load

    def counted(folder: Path, **given: Any) -> Any:
        loaded.append(folder)
        return honest(folder, **given)

    monkeypatch.setattr(Session, "load", counted)
    work_module._opened.clear()
    run(tmp_path, attack=["toy-noise", {"toy-noise": {"scale": 0.5}}])
    assert len(loaded) == 1
    shutil.rmtree(tmp_path)
    run(tmp_path)
    assert loaded == [loaded[0], loaded[0]]


def test_a_second_run_does_nothing_and_a_larger_matrix_only_what_is_new(tmp_path: Path, trained: list[str]) -> None:
    attacks = ["toy-noise", "toy-labels"]  # the second is refused
    first = run(tmp_path, attack=attacks)
    assert len(trained) == 1
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "records").iterdir()}
    again = run(tmp_path, attack=attacks)
    assert len(trained) == 1
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "records").iterdir()} == files
    pd.testing.assert_frame_equal(again.frame, first.frame)
    larger = run(tmp_path, attack=["toy-noise", {"toy-noise": {"scale": 2}}], cut=["conv1", "conv2"])
    assert len(trained) == 2
    assert len(larger.frame) == 8
    smaller = run(tmp_path, attack="toy-noise", cut="conv2")
    assert len(smaller.frame) == 2  # records of other cells stay, and are not reported


def test_a_damaged_record_or_session_is_done_again(tmp_path: Path, trained: list[str]) -> None:
    first = run(tmp_path)
    record = next((tmp_path / "records").iterdir())
    record.write_text(record.read_text()[:100])
    network = next((tmp_path / "sessions").glob("*/network.safetensors"))
    network.write_bytes(network.read_bytes()[:-3])
    again = run(tmp_path)
    assert len(trained) == 2
    pd.testing.assert_frame_equal(numbers(again), numbers(first))


def test_what_breaks_is_a_record_the_rest_goes_on_and_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = [{"toy-breaks": {"how": how}} for how in ("RuntimeError", "NotSupported", "wrong ids")]
    results = run(tmp_path, attack=[*attacks, "toy-noise"])
    broke = one(results, attack="toy-breaks", phase="training")
    assert (broke["status"], broke["reason"]) == ("failed", "RuntimeError: it broke in the middle")
    assert broke["accuracy"] > 0  # what is known of the deployment stays
    assert pd.isna(broke["leakage"])
    refused = one(results, attack="toy-breaks(how=NotSupported)", phase="training")
    assert (refused["status"], refused["reason"]) == ("refused", "not on a Tuesday")
    wrong = one(results, attack="toy-breaks(how=wrong ids)", phase="query")
    assert "a guess answers for view.ids, all of them in that order" in wrong["reason"]
    assert one(results, attack="toy-noise", phase="query")["status"] == "ok"
    failed = next(r for r in results.records if r.status == "failed")
    assert "RuntimeError: it broke" in failed.extra["traceback"]
    (summary,) = results.summary.to_dict("records")
    counts = [summary[f"attacks_{status}"] for status in ("ok", "refused", "failed")]
    assert counts == [2, 2, 4]

    monkeypatch.setattr("tests.matrix.toys.Breaks.run", Noise.run)
    mended = run(tmp_path, attack=[*attacks, "toy-noise"])
    assert one(mended, attack="toy-breaks", phase="training")["status"] == "ok"
    assert one(mended, attack="toy-breaks(how=NotSupported)", phase="training")["status"] == "refused"


def test_a_training_that_breaks_fails_its_cells_with_its_reason_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    wild = {"epochs": 2, "batch_size": 4, "optimizer": {"name": "sgd", "lr": 1e9}}
    results = run(tmp_path, train=wild)
    assert set(results.frame["status"]) == {"failed"}
    assert all(
        reason.startswith("its training: the loss was not a finite number") for reason in results.frame["reason"]
    )
    assert list((tmp_path / "sessions").iterdir()) == []


def test_refused_cells_are_records_with_what_is_known_of_their_deployment(tmp_path: Path) -> None:
    results = run(tmp_path, attack=["toy-noise", "toy-labels"], defense=["none", {"deeper-cut": {"layers": 99}}])
    refused = one(results, attack="toy-labels", defense="none")
    assert refused["reason"].startswith("this adversary (the server) is given the labels")
    assert refused["accuracy"] == one(results, attack="toy-noise", defense="none", phase="query")["accuracy"]
    nowhere = one(results, attack="toy-labels", defense="deeper-cut(layers=99)")
    assert "99 further than conv1" in nowhere["reason"]
    assert pd.isna(nowhere["accuracy"])


def test_labels_are_attacked_by_the_party_that_is_not_told_them(tmp_path: Path) -> None:
    results = run(tmp_path, attack="toy-labels", mode=[{"vanilla": {"labels": "server"}}, "u-shaped"])
    assert list(results.frame["phase"]) == ["training", "training"]
    assert list(results.frame["adversary"]) == ["client", "server"]
    assert (results.frame["label_auc"].between(0, 1)).all()
    assert results.summary["worst_label"].notna().all()
    assert results.summary["worst_input"].isna().all()  # not evaluated is not zero


def test_a_limit_leaves_the_rest_for_the_next_run(tmp_path: Path) -> None:
    matrix = Matrix({**NOISE, "seeds": [0, 1]})
    first = matrix.run(tmp_path, limit=1, progress=False)
    assert (len(first.records), len(first.missing)) == (2, 2)
    assert "2 not run" in repr(first)
    assert len(matrix.run(tmp_path, progress=False).missing) == 0
    with pytest.raises(BadSetting, match="limit must be 1 or more cells; got 0"):
        matrix.run(tmp_path, limit=0)
    with pytest.raises(BadSetting, match="jobs must be 1 or more; got 0"):
        matrix.run(tmp_path, jobs=0)


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


def test_without_victims_there_is_nothing_to_attack(tmp_path: Path) -> None:
    results = run(tmp_path, data={**QUICK["data"], "victims": {"member": 6, "query": 0}})
    assert list(results.frame["status"]) == ["ok", "refused"]
    assert results.frame["reason"][1] == "there are no query victims that the server could attack; see data: victims"


def test_a_watching_attack_that_breaks_does_not_cost_the_others_their_session(tmp_path: Path) -> None:
    results = run(tmp_path, attack=["toy-noise", {"toy-watches": {"breaks_at": 2}}])
    assert set(results.frame[results.frame["attack"] == "toy-noise"]["status"]) == {"ok"}
    broke = one(results, attack="toy-watches(breaks_at=2)", phase="query")
    assert (broke["status"], broke["reason"]) == ("failed", "RuntimeError: watched too closely")


def test_a_run_folder_is_read_again_without_the_matrix(tmp_path: Path) -> None:
    results = run(tmp_path, title="Faces", demonstration=True)
    again = load(tmp_path)
    pd.testing.assert_frame_equal(again.frame, results.frame)
    assert (again.title, again.demonstration) == ("Faces", True)
    victims = again.victims(again.records[0])
    assert victims is not None
    assert victims["guess"].shape == victims["truth"].shape == (6, 1, 25, 25)
    assert victims["guess"].dtype == "uint8"
    assert victims["score_ssim"].mean() == pytest.approx(again.records[0].values["ssim"])
    assert again.matrix["environment"]["torch"]
