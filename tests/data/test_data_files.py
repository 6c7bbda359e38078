# SPDX-License-Identifier: Apache-2.0
"""The file readers give back what was written, byte for byte, name what is damaged, and run nothing."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitguard.compat import torchvision
from splitguard.data.files import read_cifar10, read_folder, read_idx, read_npz
from splitguard.errors import BadSetting, DataUnavailable, NotSupported

RNG = np.random.default_rng(0)


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


class Bomb:
    """Unpickling it makes the folder it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("shape", [(5,), (4, 3, 2)])
def test_idx_files_come_back(tmp_path: Path, shape: tuple[int, ...], suffix: str) -> None:
    array = RNG.integers(256, size=shape, dtype=np.uint8)
    path = tmp_path / f"x-ubyte{suffix}"
    path.write_bytes(gzip.compress(idx(array)) if suffix else idx(array))
    assert np.array_equal(read_idx(path), array)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no idx file"),
        (b"\x00\x00\x0d\x01" + bytes(8), "no idx file of unsigned bytes"),
        (idx(np.zeros((4, 3), np.uint8))[:-1], "needs 12 bytes, 11 are there"),
        (idx(np.zeros((4, 3), np.uint8)) + b"x", "needs 12 bytes, 13 are there"),
        (idx(np.zeros((4, 3), np.uint8))[:7], "no idx file"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(DataUnavailable, match=message):
        read_idx(tmp_path / "x")


@pytest.mark.parametrize("keep", [3, 30, -4])
def test_a_cut_off_gzip_file_is_named(tmp_path: Path, keep: int) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx(RNG.integers(256, size=99, dtype=np.uint8)))[:keep])
    with pytest.raises(DataUnavailable, match="fetch it again"):
        read_idx(tmp_path / "x.gz")


def test_npz_rows_come_back_with_validation_rows_after_training_rows(tmp_path: Path) -> None:
    images = {
        k: RNG.integers(256, size=(n, 4, 5, 3), dtype=np.uint8) for k, n in (("train", 3), ("val", 2), ("test", 1))
    }
    labels = {"train": [[0], [1], [2]], "val": [[1], [1]], "test": [[2]]}
    arrays = {f"{k}_images": v for k, v in images.items()} | {f"{k}_labels": np.array(v) for k, v in labels.items()}
    np.savez(tmp_path / "x.npz", **arrays)
    train, test = read_npz(tmp_path / "x.npz")
    assert test is not None
    both = np.concatenate([images["train"], images["val"]])
    assert np.array_equal(train.inputs.numpy(), both.transpose(0, 3, 1, 2))
    assert train.labels.tolist() == [0, 1, 2, 1, 1]
    assert np.array_equal(test.inputs.numpy()[0, 2], images["test"][0, :, :, 2])


def test_grey_float_images_without_test_rows_are_read(tmp_path: Path) -> None:
    images = RNG.random((3, 4, 4), dtype=np.float32)
    np.savez_compressed(tmp_path / "x.npz", train_images=images, train_labels=np.array([0, 1, 0]))
    train, test = read_npz(tmp_path / "x.npz")
    assert np.array_equal(train.inputs.numpy()[:, 0], images)
    assert test is None


GOOD = np.zeros((2, 4, 4, 3), np.uint8)
TWO = np.zeros(2, int)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"x": GOOD}, BadSetting, "needs the arrays train_images and train_labels"),
        ({"train_images": GOOD}, BadSetting, "no array 'train_labels'; it has train_images"),
        ({"train_images": GOOD, "train_labels": np.zeros((2, 14), int)}, NotSupported, "several labels a row"),
        ({"train_images": GOOD.transpose(0, 3, 1, 2), "train_labels": TWO}, BadSetting, "channels last"),
        ({"train_images": GOOD.astype(np.int32), "train_labels": TWO}, BadSetting, "is int32; wanted uint8"),
        ({"train_images": GOOD, "train_labels": np.zeros(2)}, BadSetting, "is float64; wanted integers"),
        (
            {"train_images": GOOD, "train_labels": TWO, "val_images": GOOD[:, 1:], "val_labels": TWO},
            BadSetting,
            "val_images and train_images differ",
        ),
    ],
)  # fmt: skip
def test_an_npz_of_another_kind_is_refused(
    tmp_path: Path, arrays: dict[str, Any], error: type[Exception], message: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(error, match=message):
        read_npz(tmp_path / "x.npz")


def test_no_pickle_is_ever_loaded(tmp_path: Path) -> None:
    target = tmp_path / "made-by-a-pickle"
    objects = np.array([Bomb(target), 0], dtype=object)
    np.savez(tmp_path / "in-npz.npz", train_images=GOOD, train_labels=objects)
    objects.dump(tmp_path / "bare.npz")
    for name in ("in-npz.npz", "bare.npz"):
        with pytest.raises(BadSetting, match="never pickles"):
            read_npz(tmp_path / name)
    assert not target.exists()
    np.load(tmp_path / "bare.npz", allow_pickle=True)
    assert target.exists(), "the bomb must work, or this test proves nothing"


def test_a_bare_array_and_a_damaged_npz_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "bare.npz").open("wb") as file:
        np.save(file, GOOD)
    with pytest.raises(BadSetting, match="one bare array"):
        read_npz(tmp_path / "bare.npz")
    np.savez(tmp_path / "cut.npz", train_images=GOOD, train_labels=TWO)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-30])
    with pytest.raises(BadSetting, match="damaged"):
        read_npz(tmp_path / "cut.npz")


def cifar(folder: Path, rows: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    """The six files of CIFAR-10's binary version, with few rows, as a folder and as the archive."""
    (folder / "cifar-10-batches-bin").mkdir()
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    out = {name: RNG.integers(256, size=(rows, 3073), dtype=np.uint8) for name in names}
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, array in out.items():
            array[:, 0] %= 10
            (folder / "cifar-10-batches-bin" / name).write_bytes(array.tobytes())
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = array.size
            archive.addfile(member, io.BytesIO(array.tobytes()))
    return out


@pytest.mark.parametrize("form", ["cifar-10-batches-bin", "cifar-10-binary.tar.gz"])
def test_cifar_planes_come_back_in_file_order(tmp_path: Path, form: str) -> None:
    wrote = cifar(tmp_path)
    train, test = read_cifar10(tmp_path / form)
    assert train.inputs.shape == (15, 3, 32, 32)
    last = wrote["data_batch_5.bin"][2]
    assert train.labels[14] == last[0]
    # The format: red, green, blue plane, each row by row.
    assert train.inputs[14, 1, 30, 7] == last[1 + 1024 + 30 * 32 + 7]
    assert torch.equal(test.labels, torch.from_numpy(wrote["test_batch.bin"][:, 0].astype(np.int64)))


def test_a_damaged_or_pickled_cifar_is_refused(tmp_path: Path) -> None:
    cifar(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").write_bytes(bytes(3072))
    with pytest.raises(DataUnavailable, match=r"data_batch_3\.bin is damaged: 3072 bytes, no multiple of 3073"):
        read_cifar10(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    with pytest.raises(DataUnavailable, match="not a whole CIFAR-10"):
        read_cifar10(tmp_path / "cifar-10-batches-bin")
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(DataUnavailable, match="not a whole CIFAR-10"):
        read_cifar10(archive)
    for name in ("cifar-10-python.tar.gz", "cifar-10-batches-py"):
        with pytest.raises(NotSupported, match="pickles, which splitguard never loads"):
            read_cifar10(tmp_path / name)


def pictures(root: Path, size: tuple[int, int] = (6, 5)) -> Path:
    from PIL import Image

    for name in ("b/2.png", "a/10.png", "a/9.PNG", "b/deep/1.bmp"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(256, size=(*size[::-1], 3), dtype=np.uint8)).save(root / name)
    (root / "a" / "notes.txt").write_text("no image")
    (root / "loose.png").write_bytes(b"not in a class folder")
    (root / ".hidden").mkdir()
    return root


@pytest.mark.parametrize("greyscale", [False, True])
def test_a_folder_reads_as_torchvision_reads_it(tmp_path: Path, greyscale: bool) -> None:
    part, classes = read_folder(pictures(tmp_path / "x"), None, greyscale)
    (tmp_path / "x" / ".hidden").rmdir()  # torchvision takes hidden folders for classes
    transforms = torchvision().transforms
    steps = [transforms.Grayscale()] if greyscale else []
    other = torchvision().datasets.ImageFolder(tmp_path / "x", transforms.Compose([*steps, transforms.ToTensor()]))
    assert list(classes) == other.classes == ["a", "b"]
    assert part.labels.tolist() == other.targets
    assert torch.equal(part.inputs.float() / 255, torch.stack([image for image, _ in other]))


def test_images_are_cropped_to_the_middle_and_resized_with_antialiasing(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "a").mkdir()
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 4:12] = np.arange(8, dtype=np.uint8)[:, None] * 10  # the central square; left and right of it black
    Image.fromarray(wide).save(tmp_path / "a" / "1.png")
    part, _ = read_folder(tmp_path, 8, greyscale=True)
    assert np.array_equal(part.inputs.numpy()[0, 0], wide[:, 4:12])
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "a" / "1.png")
    part, _ = read_folder(tmp_path, 8, greyscale=True)
    # Without antialiasing a fine chessboard samples to black and white; its local mean is 127.5 everywhere.
    assert part.inputs.float().sub(127.5).abs().max() <= 4


def test_odd_folders_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    with pytest.raises(BadSetting, match="holds no class folders"):
        read_folder(tmp_path, None, False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSetting, match="holds no image"):
        read_folder(tmp_path, None, False)
    (tmp_path / "empty" / "x.png").write_bytes(b"no image at all")
    with pytest.raises(BadSetting, match=r"x\.png cannot be read as an image"):
        read_folder(tmp_path, None, False)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "empty" / "x.png")
    with pytest.raises(BadSetting, match="more than 8 bits a channel"):
        read_folder(tmp_path, None, False)
    pictures(tmp_path / "sizes")
    Image.new("RGB", (7, 7)).save(tmp_path / "sizes" / "b" / "3.png")
    with pytest.raises(BadSetting, match=r"different sizes, .* set `size`"):
        read_folder(tmp_path / "sizes", None, False)
