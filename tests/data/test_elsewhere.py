# SPDX-License-Identifier: Apache-2.0
"""Auxiliary rows from another data set: nothing else changes, and no image of the deployment is among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from splitguard.data import Data, DataSpec, Pool, draw, load
from splitguard.data.elsewhere import draw_elsewhere, sizes_elsewhere
from splitguard.errors import BadSetting, UnknownName

SIZES: dict[str, Any] = {"train": 90, "test": 30, "victims": {"member": 12, "query": 10}, "clients": 3, "seed": 5}
COARSE = (0, 1, 0, 1, 2)


def images(number: int, seed: int, side: int = 4) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(256, (number, 1, side, side), generator=draws, dtype=torch.uint8)


def pool(name: str = "own", number: int = 300, classes: int = 5, seed: int = 0, **more: Any) -> Pool:
    return Pool(name, images(number, seed), torch.arange(number) % classes, **more)


def other(**more: Any) -> Pool:
    return pool("other", seed=1, **more)


def marks(data: Data, part: str) -> set[bytes]:
    return {row.numpy().tobytes() for row in (data.parts[part].inputs * 255).round().byte()}


@pytest.mark.parametrize("aux", [7, 60, 200])
def test_nothing_but_the_auxiliary_rows_changes(aux: int) -> None:
    mine, theirs = draw(pool(), aux=60, **SIZES), draw_elsewhere(pool(), other(), aux=aux, **SIZES)
    for part in ("train", "test", "query"):
        was, now = mine.parts[part], theirs.parts[part]
        assert torch.equal(was.ids, now.ids)
        assert torch.equal(was.inputs, now.inputs)
        assert torch.equal(was.labels, now.labels)
    assert torch.equal(mine.members, theirs.members)
    assert all(torch.equal(a, b) for a, b in zip(mine.clients, theirs.clients, strict=True))
    assert len(theirs.aux) == aux
    assert marks(theirs, "aux") <= {row.numpy().tobytes() for row in other().inputs}
    assert int(theirs.aux.ids.min()) >= len(pool())
    assert (theirs.name, theirs.classes) == (mine.name, mine.classes)


def test_sizes_that_nobody_gave_are_those_of_the_deployment_with_rows_of_its_own() -> None:
    mine, theirs = draw(pool(), seed=2), draw_elsewhere(pool(), other(number=1000), seed=2)
    assert torch.equal(mine.train.ids, theirs.train.ids)
    assert torch.equal(mine.test.ids, theirs.test.ids)
    assert torch.equal(mine.query.ids, theirs.query.ids)
    assert torch.equal(mine.members, theirs.members)
    assert (len(mine.aux), len(theirs.aux)) == (60, 200)
    assert sizes_elsewhere(pool(), other(), train=255, test=20).train == 255, "the pool need not give auxiliary rows"


def test_rows_are_stratified_seeded_and_of_the_classes_asked_for() -> None:
    def drawn(seed: int, **more: Any) -> Data:
        return draw_elsewhere(pool(), other(), aux=50, **{**SIZES, "seed": seed, **more})

    assert torch.bincount(drawn(5).aux.labels).tolist() == [10] * 5
    assert torch.bincount(drawn(5, aux_classes=[1, 4]).aux.labels).tolist() == [0, 25, 0, 0, 25]
    assert torch.equal(drawn(5).aux.ids, drawn(5).aux.ids)
    assert not torch.equal(drawn(5).aux.inputs, drawn(6).aux.inputs)
    with pytest.raises(BadSetting, match=r"aux_classes must lie in 0..2; got 4"):
        draw_elsewhere(pool(), other(classes=3), aux=5, aux_classes=[4], **SIZES)


@pytest.mark.parametrize("floats", [False, True])
def test_a_copy_of_any_image_of_the_deployment_is_never_given(floats: bool) -> None:
    own = pool(test_inputs=images(50, 3), test_labels=torch.arange(50) % 5)
    assert own.test_inputs is not None
    mixed = torch.cat([own.inputs[:100], own.test_inputs, images(60, 4)])
    theirs = Pool("mixed", mixed.float() / 255 if floats else mixed, torch.arange(210) % 5)
    data = draw_elsewhere(own, theirs, aux=58, **SIZES)
    assert marks(data, "aux") <= {row.numpy().tobytes() for row in images(60, 4)}
    with pytest.raises(BadSetting, match=r"wanted aux 59; it has 58 rows to give, and 150 exact copies of images"):
        draw_elsewhere(own, theirs, aux=59, **SIZES)
    with pytest.raises(BadSetting, match=r"wanted aux 209; it has 208 rows to give\. Lower aux"):
        sizes_elsewhere(own, theirs, aux=209)


def test_the_digest_covers_rows_from_elsewhere() -> None:
    data = draw_elsewhere(pool(), other(), aux=50, **SIZES)
    assert data.digest == draw_elsewhere(pool(), other(), aux=50, **SIZES).digest
    changed = other()
    changed.inputs[:, 0, 0, 0] ^= 1
    others = [
        draw(pool(), aux=50, **SIZES),
        draw_elsewhere(pool(), other(), aux=49, **SIZES),
        draw_elsewhere(pool(), changed, aux=50, **SIZES),
        draw_elsewhere(pool(), other(), aux=50, coarse=COARSE, **SIZES),
    ]
    assert len({data.digest, *(one.digest for one in others)}) == 5


def test_coarse_labels_hold_for_them_too() -> None:
    plain = draw_elsewhere(pool(), other(), aux=50, **SIZES)
    coarse = draw_elsewhere(pool(), other(), aux=50, coarse=COARSE, **SIZES)
    assert coarse.aux.attributes is not None
    assert torch.equal(coarse.aux.attributes, plain.aux.labels)
    assert torch.equal(coarse.aux.labels, torch.tensor(COARSE)[plain.aux.labels])
    assert torch.equal(coarse.aux.inputs, plain.aux.inputs)


@pytest.mark.parametrize(
    ("theirs", "coarse", "message"),
    [
        (Pool("large", images(50, 2, side=5), torch.arange(50) % 5), None, "wanted inputs of shape 1x4x4; got 1x5x5"),
        (other(classes=6), None, "at most 5 classes; got 6"),
        (other(classes=4), COARSE, "it wants 5 of them; got 4"),
        (other(), (0, 1), "one label for each of the 5 classes"),
    ],
)
def test_rows_that_fit_no_network_or_no_class_are_refused(
    theirs: Pool, coarse: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(BadSetting, match=message):
        draw_elsewhere(pool(), theirs, aux=10, coarse=coarse, **SIZES)
    assert len(draw_elsewhere(pool(), other(classes=4), aux=10, **SIZES).aux) == 10


def test_no_auxiliary_rows_are_none_wherever_they_come_from() -> None:
    assert len(draw_elsewhere(pool(), pool(), aux=0, **SIZES).aux) == 0


@pytest.fixture
def npz(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    path = tmp_path / "strangers.npz"
    np.savez(path, train_images=rng.integers(256, size=(60, 25, 25), dtype=np.uint8), train_labels=np.arange(60) % 2)
    return str(path)


def test_an_entry_survives_yaml_and_json_and_means_one_thing(npz: str) -> None:
    spec = DataSpec.parse({"name": "faces", "aux": 10, "aux_source": {"name": "npz", "path": npz}})
    assert spec == DataSpec.parse("faces", aux=10, aux_source={"npz": {"path": Path(npz)}})
    assert spec.aux_source == {"name": "npz", "path": npz, "class_names": (), "victim_class": None}
    assert DataSpec.parse(yaml.safe_load(yaml.safe_dump(json.loads(json.dumps(spec.as_dict()))))) == spec
    resolved = spec.resolve()
    assert DataSpec.parse(resolved.as_dict()) == resolved
    assert resolved.draw(3).digest == load("faces", seed=3, aux=10, aux_source={"name": "npz", "path": npz}).digest
    assert (resolved.train, resolved.aux) == (DataSpec.parse("faces").resolve().train, 10)


def test_the_data_set_itself_is_no_source_of_its_own() -> None:
    assert DataSpec.parse("faces", aux_source="faces") == DataSpec.parse("faces")
    assert "aux_source" not in DataSpec.parse("faces", aux_source={"faces": None}).as_dict()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("face", UnknownName, "unknown data set 'face'. Did you mean 'faces'"),
        ({"name": "mnist", "pth": "x"}, UnknownName, "unknown setting of data 'mnist': 'pth'. Did you mean 'path'"),
        ({"npz": {}}, BadSetting, "needs the setting 'path'"),
        (3, BadSetting, "'aux_source' is the name of a data set or"),
        ({"path": "x"}, BadSetting, "'aux_source' is the name of a data set or"),
        ({}, BadSetting, "'aux_source' is the name of a data set or"),
    ],
)
def test_sources_that_are_none_are_refused(source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DataSpec("faces", aux_source=source)
