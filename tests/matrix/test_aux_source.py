# SPDX-License-Identifier: Apache-2.0
"""Where the attacker's rows come from is an axis: in the keys by what it holds, in names by what it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitguard.matrix import Cell, Matrix, MatrixError
from splitguard.matrix.record import described
from splitguard.reports import markdown, write_report
from splitguard.reports.gather import deployments
from tests.matrix.toys import QUICK

NOISE = {**QUICK, "attack": "toy-noise"}


def strangers(folder: Path, seed: int = 0) -> str:
    """An npz of 60 images of the size of faces."""
    rng, path = np.random.default_rng(seed), folder / "strangers.npz"
    folder.mkdir(exist_ok=True)
    np.savez(path, train_images=rng.integers(256, size=(60, 25, 25), dtype=np.uint8), train_labels=np.arange(60) % 2)
    return str(path)


def cells(**data: Any) -> list[Cell]:
    return [r.cell for r in Matrix({**NOISE, "data": {**QUICK["data"], **data}}).cells]


def test_a_source_is_known_by_what_it_holds_and_not_by_its_path(tmp_path: Path) -> None:
    here, there = strangers(tmp_path / "a"), strangers(tmp_path / "b")
    [one] = cells(aux=10, aux_source={"name": "npz", "path": here})
    [copy] = cells(aux=10, aux_source={"name": "npz", "path": there})
    assert (one.key(), one.session_key()) == (copy.key(), copy.session_key())
    [more] = cells(aux=10, aux_source={"name": "npz", "path": strangers(tmp_path / "c", seed=1)})
    [own] = cells(aux=10)
    assert len({one.key(), more.key(), own.key()}) == 3
    assert len({one.session_key(), more.session_key(), own.session_key()}) == 3
    assert {one.data["train"], more.data["train"], own.data["train"]} == {40}


def test_keys_of_data_without_it_do_not_know_of_it() -> None:
    [plain], [same] = cells(), cells(aux_source="faces")
    assert "aux_source" not in plain.data
    assert plain.key() == same.key()
    assert plain.key() == "d94220db7aa9d378", "pinned before there was a choice"


def test_source_number_and_classes_are_axes(tmp_path: Path) -> None:
    npz = {"name": "npz", "path": strangers(tmp_path), "class_names": ["here", "there"]}
    found = cells(aux_source=[npz, "faces"], aux=[5, 10])
    told = [(described(c)["dataset"], c.data["aux"]) for c in found]
    assert told == [
        *(("faces, auxiliary from npz strangers.npz", aux) for aux in (5, 10)),
        *(("faces", aux) for aux in (5, 10)),
    ]
    assert found[0].data["aux_source"]["class_names"] == ("here", "there")
    assert [c.data["aux_classes"] for c in cells(aux=4, aux_classes=[[1], [0, 1]])] == [[1], [0, 1]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mnst", "matrix, data.aux_source: unknown data set 'mnst'. Did you mean 'mnist'"),
        ({"npz": {"pth": "x"}}, "matrix, data.aux_source.npz.pth: unknown setting of data 'npz': 'pth'"),
    ],
)
def test_what_is_wrong_is_said_at_its_place(source: Any, message: str) -> None:
    with pytest.raises(MatrixError) as error:
        cells(aux_source=source)
    assert message in str(error.value)


def test_rows_of_another_shape_are_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "small.npz"
    np.savez(path, train_images=np.zeros((60, 8, 8), np.uint8), train_labels=np.arange(60) % 2)
    with pytest.raises(MatrixError, match=r"data.aux_source: .* wanted inputs of shape 1x25x25; got 1x8x8"):
        cells(aux_source={"name": "npz", "path": str(path)})


@pytest.mark.slow
def test_a_run_trains_the_same_network_and_names_its_deployments_apart(tmp_path: Path) -> None:
    npz = {"name": "npz", "path": strangers(tmp_path)}
    blocks = [{"data": {"aux_source": npz, "aux": [5, 10]}}, {"data": {"aux": 10}}, {"data": {"aux_classes": [0]}}]
    results = Matrix({**NOISE, "blocks": blocks}).run(tmp_path / "run", progress=False)
    assert (results.frame["status"] == "ok").all()
    assert results.frame["accuracy"].nunique() == 1, "what the attacker has changes no training"
    assert len({r.extra["digest"] for r in results.records}) == 1
    assert len({r.extra["data_digest"] for r in results.records}) == 4
    names = [d.name for d in deployments(results)]
    assert len(set(names)) == 4
    assert "faces, auxiliary from npz strangers.npz" in names[0]
    assert "5 auxiliary rows" in names[0]
    assert "auxiliary of classes 0" in names[3]
    assert len(set(markdown(results, ["name"]).splitlines())) == 6
    [page, *_] = write_report(tmp_path / "run")
    assert "(of classes 0)" in page.read_text(encoding="utf-8")
