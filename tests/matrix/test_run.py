# SPDX-License-Identifier: Apache-2.0
"""A run: everything once, failures as records, and resuming."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from splitguard.engine.session import Session
from splitguard.errors import BadSetting
from splitguard.matrix import COLUMNS, SUMMARY_COLUMNS, Matrix, load
from splitguard.matrix import work as work_module
from tests.matrix.toys import NOISE, Noise, numbers, one, run

GAUSSIAN = {"gaussian": {"epsilon": 8}}


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


def test_without_victims_there_is_nothing_to_attack(tmp_path: Path) -> None:
    results = run(tmp_path, data={**NOISE["data"], "victims": {"member": 6, "query": 0}})
    assert list(results.frame["status"]) == ["ok", "refused"]
    assert results.frame["reason"][1] == "there are no query victims that the server could attack; see data: victims"


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
