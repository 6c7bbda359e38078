# SPDX-License-Identifier: Apache-2.0
"""Bad files, folders and settings on the command line: one message that says where and what to do, status 2."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Run, runner

MATRIX = """
data: {name: faces, clients: 2, train: 40, victims: {member: 6, query: 6}}
model: lenet
cut: conv1
attack: candidate-match
defense: {gaussian: {epsilon: 200}}
train: {epochs: 1, batch_size: 16, optimizer: {name: sgd, lr: 0.02}}
"""
SMALL = ("--set", "batch_size=16", "--cut", "conv1", "--data", "{name: faces, train: 40}")


@pytest.fixture
def splitguard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process."""
    return runner(monkeypatch, capsys)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(splitguard: Run, *arguments: str) -> str:
    """What a command says that is refused."""
    ran = splitguard(*arguments)
    assert ran.status == 2, ran.out + ran.err
    assert "Traceback" not in ran.err + ran.out
    return " ".join(ran.err.split())


def planned(splitguard: Run, text: str) -> str:
    Path("m.yaml").write_text(text, encoding="utf-8")
    return refused(splitguard, "run", "m.yaml", "--out", "runs/m", "--dry-run")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "a/b"), "a/b: Permission denied: this user may not"),
        (NotADirectoryError(20, "Not a directory", "a/b"), "a/b: Not a directory: a part of this path is a file"),
        (IsADirectoryError(21, "Is a directory", "x.part", None, "a/b"), "a/b: Is a directory: a file is to be there"),
        (FileExistsError(17, "File exists", "a/b"), "a/b: File exists: a folder is to be made there"),
        (FileNotFoundError(2, "No such file", "a/b"), "no such file: a/b"),
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device"),
        (OSError("odd"), "the system refused: odd"),
    ],
)
def test_what_the_system_refuses_is_said_with_its_path(
    splitguard: Run, monkeypatch: pytest.MonkeyPatch, error: OSError, said: str
) -> None:
    def fails(file: Path) -> None:
        raise error

    monkeypatch.setattr("splitguard.terminal.running.init", fails)
    assert said in refused(splitguard, "init")


def test_a_run_folder_that_is_a_file_is_said(splitguard: Run) -> None:
    Path("m.yaml").write_text(MATRIX)
    Path("taken").write_text("")
    assert "taken" in refused(splitguard, "run", "m.yaml", "--out", "taken")
    assert "taken/inside" in refused(splitguard, "run", "m.yaml", "--out", "taken/inside")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{name: faces, clients: 1000}", "clients must lie in 1..88, the number of training rows; got 1000"),
        ("{name: faces, aux_classes: [7]}", "aux_classes must lie in 0..1; got 7"),
        (
            "{name: faces, clients: 3, partition: {dirichlet: {alpha: 1, minimum: 60}}}",
            "3 clients with at least 60 rows each",
        ),
    ],
)
def test_rows_that_cannot_be_drawn_or_dealt_are_said_before_anything_runs(
    splitguard: Run, data: str, said: str
) -> None:
    lines = [line for line in MATRIX.splitlines() if not line.startswith("data:")]
    assert said in planned(splitguard, "\n".join([f"data: {data}", *lines]))


NO_ATTACK = MATRIX.replace("candidate-match", "breakers").replace("defense: {gaussian: {epsilon: 200}}\n", "")


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_matrix_of_no_cells_is_refused(splitguard: Run, more: tuple[str, ...]) -> None:
    Path("m.yaml").write_text(NO_ATTACK)
    assert "m.yaml makes 0 cells" in refused(splitguard, "run", "m.yaml", "--out", "run", *more)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("lr: 0.02", "lr: .nan", "m.yaml, line 7: 'lr': wanted a finite number; got .nan"),
        ("lr: 0.02", "lr: -.inf", "'lr': wanted a finite number; got -.inf"),
        ("{name: sgd, lr: 0.02}", "{head: 3}", "m.yaml, line 7, train.optimizer"),
        ("{name: sgd, lr: 0.02}", "3", "optimizer is {name: ..., settings}"),
        ("epochs: 1", "augment: {flipp: true}", "m.yaml, line 7, train.augment.flipp: unknown augmentation 'flipp'"),
        ("epochs: 1", "augment: flip", "augment is written as {flip: true, crop: 4}; got 'flip'"),
        ("model: lenet", "title: 2020-13-45\nmodel: lenet", "m.yaml, line 3: '2020-13-45' cannot be read"),
    ],
)
def test_a_bad_value_is_refused_before_anything_runs(splitguard: Run, old: str, new: str, said: str) -> None:
    assert old in MATRIX
    assert said in planned(splitguard, MATRIX.replace(old, new))


#: Ways to damage the content of matrix.json.
DAMAGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing in it": lambda matrix: {},
    "a list": lambda matrix: [],
    "unknown field": lambda matrix: {**matrix, "cells": [{**matrix["cells"][0], "later": 1}]},
    "no data": lambda matrix: {**matrix, "cells": [{**matrix["cells"][0], "data": {}}]},
    "no training": lambda matrix: {**matrix, "cells": [{**matrix["cells"][0], "training": 3}]},
    "cells are numbers": lambda matrix: {**matrix, "cells": [3]},
    "environment": lambda matrix: {**matrix, "environment": 3},
}


def test_a_damaged_run_folder_is_said_and_a_damaged_record_is_unfinished(splitguard: Run) -> None:
    odd = Path("runs/ho[b]ws[/i]")
    Path("m.yaml").write_text(MATRIX)
    ran = splitguard("run", "m.yaml", "--out", str(odd))
    assert ran.status == 0, ran.err
    assert f"2 ok. Open {odd}/report.html" in ran.out  # brackets are no markup
    file = odd / "matrix.json"
    whole = file.read_text()
    for damage in DAMAGED.values():
        file.write_text(json.dumps(damage(json.loads(whole))))
        assert "matrix.json is damaged or was written by another version" in refused(splitguard, "report", str(odd))
    file.write_text(json.dumps({**json.loads(whole), "cells": []}))
    assert "a run of 0 cells" in refused(splitguard, "report", str(odd))
    file.write_text(whole)
    first, _ = sorted((odd / "records").iterdir())
    record = json.loads(first.read_text())
    damaged: list[Any] = [
        {**record, "extra": None},
        {**record, "values": {"ssim": [1]}},
        [],
        {**record, "cell": 3},
        {**record, "cell": {**record["cell"], "data": 3}},
    ]
    for content in damaged:
        first.write_text(json.dumps(content))
        told = splitguard("report", str(odd))
        assert told.status == 0, told.err
        assert len((odd / "results.csv").read_text().splitlines()) == 2  # the heading, and the other record
    (odd / "report.html").unlink()
    (odd / "report.html").mkdir()
    assert f"{odd}/report.html: Is a directory" in refused(splitguard, "report", str(odd))


def test_a_session_is_not_replaced_and_its_folder_is_looked_at_first(
    splitguard: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("taken").write_text("")
    Path("s").mkdir()
    Path("s/deployment.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr("splitguard.facade.train", lambda **settings: pytest.fail("it trained first"))
        assert "taken is a file" in refused(splitguard, "train", "--out", "taken", *SMALL)
        assert "s holds a session already" in refused(splitguard, "train", "--out", "s", *SMALL)
    assert "Did you mean 'epochs'" in refused(splitguard, "train", "--out", "fresh", "--set", "epoch=1")
    assert not Path("fresh").exists()  # nothing is left of what came to nothing
    assert "lacks data, defense" in refused(splitguard, "attack", "candidate-match", "--session", "s")
    Path("s/deployment.json").write_text("{")
    assert "is damaged" in refused(splitguard, "attack", "candidate-match", "--session", "s")


def test_an_accuracy_that_was_not_measured_is_a_dash_and_numbers_are_read_as_in_a_matrix(splitguard: Run) -> None:
    ran = splitguard("train", "--out", "s", "--set", "epochs=0", "--set", "optimizer={name: sgd, lr: 1e-2}", *SMALL)
    assert ran.status == 0, ran.err
    assert "cut conv1: accuracy —" in ran.out
    assert json.loads(Path("s/session.json").read_text())["training"]["optimizer"]["lr"] == 0.01


@pytest.mark.parametrize(
    ("option", "value"),
    [("--defense", v) for v in ("3", "", "[]", "[3]", "~")] + [("--data", "3"), ("--model", ""), ("--model", "[a]")],
)
def test_what_is_neither_a_name_nor_settings_is_refused(splitguard: Run, option: str, value: str) -> None:
    assert f"{option} is a name, or" in refused(splitguard, "train", "--out", "s", option, value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("estimate", "label-dp", "--classes", "0"), "--classes"),
        (("estimate", "gaussian", "--batch", "0"), "--batch"),
        (("estimate", "gaussian", "--shape", "abc"), "--shape is a shape such as"),
        (("calibrate", "--epsilon", "1e-9"), "--epsilon must be at least 0.001"),
        (("calibrate", "--delta", "1e-300", "--releases", "1"), "cannot count --epsilon 8 at --delta 1e-300"),
        (("cuts", "lenet", "--input", "²x3"), "--input is a shape such as"),
        (("train", "--out", "s", "--mode", "[/b]"), "unknown mode '[/b]'"),
        (("train", "--out", "s", "--set", "lr=.nan"), "wanted a finite number"),
        (("train", "--out", "s", "--set", "lr=2020-13-45"), "--set lr"),
        (("init", "nodir/m.yaml"), "the folder nodir does not exist"),
        (("check", "no_such_module:Thing"), "PYTHONPATH may name its folder"),
        (("check", "splitguard.api:Attack"), "@ATTACKS.add"),
        (("check", "splitguard.api:Atack"), "Did you mean 'Attack'"),
    ],
)
def test_the_option_that_is_wrong_is_named(splitguard: Run, arguments: tuple[str, ...], said: str) -> None:
    assert said in refused(splitguard, *arguments)


def test_the_hints_can_be_pasted_into_a_shell(splitguard: Run) -> None:
    out = splitguard("init", "my matrix.yaml").out
    assert "splitguard run 'my matrix.yaml' --out 'runs/my matrix' --dry-run" in out
    assert "'my matrix.yaml' --out" in Path("my matrix.yaml").read_text()


def test_a_module_that_breaks_on_import_is_said(splitguard: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("it_breaks.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(os.getcwd())
    assert "it_breaks raised ZeroDivisionError" in refused(splitguard, "check", "it_breaks:Thing")
    assert "it_breaks raised ZeroDivisionError" in refused(splitguard, "estimate", "--module", "it_breaks:Thing")
