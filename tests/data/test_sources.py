# SPDX-License-Identifier: Apache-2.0
"""The named data sets hold what their publishers say; what is absent is named with the way to get it."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitguard.data import DATASETS, open_pool
from splitguard.errors import BadSetting, DataUnavailable, UnknownName

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def _no_data_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPLITGUARD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_mnist(folder: Path, train: int = 6, test: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, rows in (("train", train), ("t10k", test)):
        images = np.random.default_rng(rows).integers(256, size=(rows, 28, 28), dtype=np.uint8)
        labels = (np.arange(rows) % 10).astype(np.uint8)
        image_head, label_head = struct.pack(">4B3I", 0, 0, 8, 3, rows, 28, 28), struct.pack(">4BI", 0, 0, 8, 1, rows)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(image_head + images.tobytes()))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(label_head + labels.tobytes())


def test_all_names_are_there() -> None:
    assert set(DATASETS) >= {"faces", "fashion-mnist", "mnist", "cifar10", "npz", "folder", "dataset"}


def test_faces_are_a_hundred_faces_then_a_hundred_others() -> None:
    pool = open_pool("faces")
    assert pool.inputs.shape == (200, 1, 25, 25)
    assert pool.labels.tolist() == [1] * 100 + [0] * 100
    assert pool.class_names[pool.victim_class or 0] == "face"
    assert pool.test_labels is None
    # Faces look alike: a face is nearer to the mean face than the other patches are.
    distance = (pool.inputs - pool.inputs[:100].mean(0)).flatten(1).norm(dim=1)
    assert distance[:100].mean() < 0.8 * distance[100:].mean()


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_the_published_one() -> None:
    pool = open_pool("fashion-mnist")
    assert pool.test_inputs is not None
    assert pool.test_labels is not None
    assert pool.inputs.shape == (60_000, 1, 28, 28)
    assert pool.test_inputs.shape == (10_000, 1, 28, 28)
    assert torch.bincount(pool.labels).tolist() == [6000] * 10
    assert torch.bincount(pool.test_labels).tolist() == [1000] * 10
    assert pool.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert pool.test_labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert pool.inputs.dtype == torch.uint8, "five times smaller than float32 until rows are drawn"
    # The mean and standard deviation that everyone normalises Fashion-MNIST with.
    values = pool.inputs.double() / 255
    assert float(values.mean()) == pytest.approx(0.2860, abs=5e-5)
    assert float(values.std()) == pytest.approx(0.3530, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "file", "shape", "train", "test"),
    [("cifar10", "cifar10.npz", (3, 32, 32), 13_000, 3_000), ("mnist", "mnist10k.npz", (1, 28, 28), 8_000, 2_000)],
)
@pytest.mark.parametrize("how", ["path", "folder"])
def test_real_npz_files_are_found_by_path_and_by_folder(
    test_data: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    file: str,
    shape: tuple[int, ...],
    train: int,
    test: int,
    how: str,
) -> None:
    path = test_data(file)
    if how == "folder":
        monkeypatch.setenv("SPLITGUARD_DATA", str(path.parent))
    pool = open_pool(name, {"path": path} if how == "path" else {})
    assert pool.test_labels is not None
    assert pool.inputs.shape == (train, *shape)
    assert len(pool.test_labels) == test
    assert pool.classes == 10
    assert (torch.bincount(pool.labels, minlength=10) > 0).all()
    assert pool.distinct.all()


@pytest.mark.parametrize("layout", ["", "raw-root", "own", "cache"])
def test_idx_files_are_found_wherever_tools_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    folders = {"": "x", "raw-root": "x/MNIST/raw", "own": "own/mnist", "cache": "cache/splitguard/data/mnist"}
    write_mnist(tmp_path / folders[layout])
    if layout == "own":
        monkeypatch.setenv("SPLITGUARD_DATA", str(tmp_path / "own"))
    pool = open_pool("mnist", {"path": str(tmp_path / "x")} if layout in ("", "raw-root") else None)
    assert pool.labels.tolist() == [0, 1, 2, 3, 4, 5]
    first = np.random.default_rng(6).integers(256, size=(6, 28, 28), dtype=np.uint8)
    assert np.array_equal(pool.inputs.numpy()[:, 0], first)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_absent_data_says_where_it_looked_and_how_to_get_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataUnavailable, match=rf"{tmp_path}/cache/splitguard/data.*`splitguard fetch {name}`"):
        open_pool(name)
    with pytest.raises(DataUnavailable, match=rf"{tmp_path}/nowhere.*`splitguard fetch {name}`"):
        open_pool(name, {"path": tmp_path / "nowhere"})


@pytest.mark.parametrize("name", ["npz", "folder"])
def test_an_absent_path_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataUnavailable, match=rf"no (file|folder) {tmp_path}/nowhere; set `path`"):
        open_pool(name, {"path": str(tmp_path / "nowhere")})


def test_an_npz_is_named_after_its_file(tmp_path: Path) -> None:
    images, labels = np.zeros((4, 2, 2), np.uint8), np.array([[0], [1], [0], [1]])
    np.savez(tmp_path / "blood.npz", train_images=images, train_labels=labels)
    settings = {"path": tmp_path / "blood.npz", "class_names": ["red", "white"], "victim_class": 1}
    pool = open_pool("npz", settings)
    assert (pool.name, pool.class_names, pool.victim_class) == ("blood", ("red", "white"), 1)


def test_a_folder_with_train_and_test_has_official_test_rows(tmp_path: Path) -> None:
    from PIL import Image

    for number, name in enumerate(("train/a/1", "train/b/1", "train/b/2", "test/a/1", "test/b/1")):
        path = tmp_path / "pets" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 7), number * 20).save(path)
    pool = open_pool("folder", {"path": tmp_path / "pets", "size": 4, "greyscale": True})
    assert pool.test_inputs is not None
    assert pool.inputs[:, 0, 0, 0].tolist() == [0, 20, 40]
    assert pool.test_inputs[:, 0, 3, 3].tolist() == [60, 80]
    assert (pool.name, pool.class_names, pool.inputs.shape) == ("pets", ("a", "b"), (3, 1, 4, 4))
    (tmp_path / "pets" / "test" / "b" / "1.png").rename(tmp_path / "pets" / "test" / "a" / "2.png")
    (tmp_path / "pets" / "test" / "b").rmdir()
    with pytest.raises(BadSetting, match=r"train has the class folders \('a', 'b'\), test has \('a',\)"):
        open_pool("folder", {"path": tmp_path / "pets"})


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("fasion-mnist", {}, UnknownName, "Did you mean 'fashion-mnist'"),
        (
            "folder",
            {"path": "x", "siez": 3},
            UnknownName,
            "unknown setting of data 'folder': 'siez'. Did you mean 'size'",
        ),
        ("folder", {"path": "x", "size": "big"}, BadSetting, "setting 'size' got 'big'"),
        ("folder", {}, BadSetting, "data set 'folder' needs the setting 'path'"),
        ("folder", {"path": ".", "size": 0}, BadSetting, "size must be 1 or more pixels; got 0"),
        ("dataset", {}, BadSetting, "pass the object itself"),
    ],
)
def test_bad_settings_are_refused_by_name(
    name: str, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_pool(name, settings)
