# SPDX-License-Identifier: Apache-2.0
"""The data entry of a matrix survives YAML and JSON, means one thing however it is written, and names what it lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import TensorDataset

from splitguard.data import DataSpec, draw, load, open_pool
from splitguard.errors import BadSetting, UnknownName

ENTRY = """
{name: faces, clients: 3, partition: {dirichlet: {alpha: 2}}, train: 90, test: 30, aux: 20, aux_classes: [1, 0, 1],
 victims: {member: 8, query: 12}}
"""


def test_an_entry_draws_what_draw_draws() -> None:
    given: dict[str, Any] = {
        "clients": 3, "partition": {"dirichlet": {"alpha": 2.0, "minimum": 10}}, "train": 90, "test": 30, "aux": 20,
        "aux_classes": [0, 1], "victims": {"query": 12, "member": 8},
    }  # fmt: skip
    left, right = load(yaml.safe_load(ENTRY), seed=4), draw(open_pool("faces"), **given, seed=4)
    assert left.digest == right.digest
    assert left.partition == "dirichlet(2)"


def test_it_survives_yaml_and_json_and_is_whole_when_resolved() -> None:
    spec = DataSpec.parse(yaml.safe_load(ENTRY))
    assert DataSpec.parse(yaml.safe_load(yaml.safe_dump(spec.as_dict()))) == spec
    assert DataSpec.parse(json.loads(json.dumps(spec.as_dict()))) == spec
    whole = DataSpec.parse("faces").resolve()
    assert whole.as_dict() == {
        "name": "faces", "source": {}, "clients": 1, "partition": "iid", "train": 88, "test": 40, "aux": 40,
        "aux_classes": None, "victims": {"member": 16, "query": 16},
    }  # fmt: skip
    assert whole.resolve() == whole
    assert whole.draw(0).digest == load("faces").digest


@pytest.mark.parametrize(
    "written",
    [
        {"name": "faces", "clients": 2, "partition": {"shards": None}},
        {"name": "faces", "clients": 2, "partition": {"shards": {"per_client": 2}}, "source": None},
        {"faces": {"clients": 2, "partition": "shards", "victims": {}}},
        {"name": "faces", "clients": 2, "partition": "shards", "train": None},
    ],
)
def test_one_meaning_has_one_written_form(written: dict[str, Any]) -> None:
    wanted = DataSpec.parse("faces", clients=2, partition="shards")
    assert DataSpec.parse(written) == wanted
    assert DataSpec.parse(written).as_dict() == wanted.as_dict()


def test_settings_of_the_source_stand_inline_or_below_source(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(60, 4, 4), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=labels)
    path = str(tmp_path / "x.npz")
    inline = DataSpec.parse({"name": "npz", "path": path, "victim_class": 2})
    assert inline == DataSpec.parse({"name": "npz", "source": {"path": tmp_path / "x.npz", "victim_class": 2}})
    assert inline.source == {"path": path, "class_names": (), "victim_class": 2}
    json.dumps(inline.as_dict())
    data = load("npz", path=path, victim_class=2, clients=2, seed=3)
    assert data.digest == inline.__class__.parse(inline.as_dict(), clients=2).draw(3).digest
    assert set(data.query.labels.tolist()) == {2}


def test_python_objects_are_data_too() -> None:
    pool = open_pool("faces")
    data = load(pool, clients=2, seed=1)
    assert data.digest == load("faces", clients=2, seed=1).digest
    assert load(data) is data
    plain = load(TensorDataset(pool.inputs, pool.labels), seed=1)
    assert set(plain.query.labels.tolist()) == {0, 1}, "a Dataset names no victim class"
    spec = DataSpec.parse("faces", train=20)
    assert len(load(spec, train=30).train) == 30


def test_data_made_by_hand_is_checked() -> None:
    data = load("faces")
    data.aux.inputs[0, 0, 0, 0] = torch.nan
    with pytest.raises(BadSetting, match="'faces', aux: 1 of 40 inputs hold NaN"):
        load(data)
    with pytest.raises(BadSetting, match="drawn already; clients cannot change it"):
        load(data, clients=2)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"name": "face"}, UnknownName, "unknown data set 'face'. Did you mean 'faces'"),
        (
            {"name": "faces", "cleints": 2},
            UnknownName,
            "unknown setting of data 'faces': 'cleints'. Did you mean 'clients'",
        ),
        ({"name": "folder", "pth": "x"}, UnknownName, "Did you mean 'path'"),
        ({"name": "faces", "source": {"clients": 2}}, UnknownName, "setting of data 'faces': 'clients'"),
        ({"name": "faces", "victims": {"membr": 2}}, UnknownName, "kind of victims 'membr'. Did you mean 'member'"),
        ({"name": "faces", "victims": 64}, BadSetting, "victims must be written as"),
        (
            {"name": "faces", "victims": {"member": -1}},
            BadSetting,
            "victims: member must be a whole number of 0 or more",
        ),
        ({"name": "faces", "partition": "dirichlet"}, BadSetting, "needs the setting 'alpha'"),
        ({"name": "faces", "train": "many"}, BadSetting, "train must be a whole number of 1 or more; got 'many'"),
        ({"name": "faces", "aux_classes": 3}, BadSetting, "aux_classes must be a list"),
        ({"name": "faces", "aux_classes": []}, BadSetting, "aux_classes must be a list of one class number or more"),
        ({"name": "faces", "source": "x"}, BadSetting, "source must be written as"),
        ({"clients": 3, "train": 5}, BadSetting, "data is written as a name or as"),
        ({"clients": 3}, BadSetting, "data is written as a name or as"),
    ],
)
def test_bad_entries_are_refused_by_name(spec: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(spec)


def test_unknown_settings_of_objects_and_other_objects_are_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'clients'"):
        load(open_pool("faces"), client=2)
    with pytest.raises(BadSetting, match="got list"):
        load([1, 2])  # type: ignore[arg-type]  # that is the point
