# SPDX-License-Identifier: Apache-2.0
"""Readers of idx, npz, CIFAR-10 binary and image files; none of them ever unpickles anything."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitguard.errors import BadSetting, DataUnavailable, NotSupported, SplitguardError

__all__ = ["Part", "read_cifar10", "read_folder", "read_idx", "read_npz"]

_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
_CIFAR_ROW = 1 + 3 * 32 * 32  # a label byte, then the red, green and blue planes


@dataclass(frozen=True, eq=False)
class Part:
    """Images (N, C, H, W), uint8 or float32, and their labels (N,), int64."""

    inputs: Tensor
    labels: Tensor


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in an idx file of unsigned bytes, plain or gzipped (the format of MNIST).

    Raises:
        DataUnavailable: if the file is damaged or is no idx file of bytes.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataUnavailable(f"{path} cannot be read ({error}); delete it and fetch it again") from None
    rank = raw[3] if len(raw) >= 4 else 0
    head = 4 + 4 * rank
    if len(raw) < head or raw[:3] != b"\x00\x00\x08" or rank == 0:
        raise DataUnavailable(f"{path} is no idx file of unsigned bytes: it starts with {raw[:4]!r}")
    shape = np.frombuffer(raw, dtype=">u4", count=rank, offset=4).astype(np.int64)
    if len(raw) - head != int(shape.prod()):
        wanted = f"{tuple(shape.tolist())} needs {int(shape.prod())} bytes"
        raise DataUnavailable(f"{path} is damaged: {wanted}, {len(raw) - head} are there; delete it and fetch it again")
    return np.frombuffer(raw, dtype=np.uint8, offset=head).reshape(shape.tolist())


def read_npz(path: Path) -> tuple[Part, Part | None]:
    """Training and official test rows of a MedMNIST-style npz; ``val_*`` rows count as training rows.

    Keys: ``train_images`` (N, H, W) or (N, H, W, C), C 1 or 3, uint8 or floats in [0, 1], and ``train_labels`` (N,) or
    (N, 1); the same with ``val_`` and ``test_``, both optional.

    Raises:
        BadSetting: if keys are missing, shapes do not fit, or an array is pickled.
    """
    try:
        # From an open file: given a path, np.load leaves it open when the archive turns out to be damaged.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise BadSetting(f"{path} holds one bare array; wanted an npz with train_images and train_labels")
            parts = {which: _npz_part(archive, which, path) for which in ("train", "val", "test")}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise BadSetting(f"{path} is damaged or is no npz ({error})") from None
    except SplitguardError:
        raise
    except ValueError as error:
        raise BadSetting(f"{path}: only plain arrays are read, never pickles ({error})") from None
    train, val = parts["train"], parts["val"]
    if train is None:
        raise BadSetting(f"{path} needs the arrays train_images and train_labels")
    if val is not None:
        if val.inputs.shape[1:] != train.inputs.shape[1:] or val.inputs.dtype != train.inputs.dtype:
            raise BadSetting(f"{path}: val_images and train_images differ in shape or dtype")
        train = Part(torch.cat([train.inputs, val.inputs]), torch.cat([train.labels, val.labels]))
    return train, parts["test"]


def _npz_part(archive: np.lib.npyio.NpzFile, which: str, path: Path) -> Part | None:
    names = (f"{which}_images", f"{which}_labels")
    if not any(name in archive.files for name in names):
        return None
    for name in names:
        if name not in archive.files:
            raise BadSetting(f"{path} has no array {name!r}; it has {', '.join(sorted(archive.files)) or 'none'}")
    images, labels = archive[names[0]], archive[names[1]]
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise NotSupported(
            f"{path}: {names[1]} is {labels.shape}: several labels a row are out of scope; keep one column"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        wanted = "(N, H, W) or (N, H, W, C) with C = 1 or 3"
        raise BadSetting(f"{path}: {names[0]} is {images.shape}, wanted {wanted}; move the channels last")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise BadSetting(f"{path}: {names[0]} is {images.dtype}; wanted uint8, or floats in [0, 1]")
    if labels.dtype.kind not in "iu":
        raise BadSetting(f"{path}: {names[1]} is {labels.dtype}; wanted integers")
    inputs = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return Part(inputs, torch.from_numpy(labels.reshape(-1).astype(np.int64)))


def read_cifar10(path: Path) -> tuple[Part, Part]:
    """CIFAR-10's binary version: cifar-10-binary.tar.gz as it is, or the folder cifar-10-batches-bin.

    Nothing is unpacked to disk. The python version of CIFAR-10 is a set of pickles and is refused.

    Raises:
        DataUnavailable: if a batch is missing or damaged.
        NotSupported: for the python version.
    """
    names = [f"data_batch_{number}.bin" for number in range(1, 6)], ["test_batch.bin"]
    if "python" in path.name or path.name == "cifar-10-batches-py":
        raise NotSupported(f"{path} is CIFAR-10's python version, a set of pickles, which splitguard never loads; "
                           "get the binary version: splitguard fetch cifar10")  # fmt: skip
    try:
        if path.is_dir():
            raw = {name: (path / name).read_bytes() for group in names for name in group}
        else:
            with tarfile.open(path) as archive:
                found = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
                raw = {}
                for name in (*names[0], *names[1]):
                    stream = archive.extractfile(found[name])
                    raw[name] = stream.read() if stream is not None else b""
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise DataUnavailable(f"{path} is not a whole CIFAR-10 binary version ({error}); fetch it again") from None
    return _cifar_part(raw, names[0], path), _cifar_part(raw, names[1], path)


def _cifar_part(raw: dict[str, bytes], names: list[str], path: Path) -> Part:
    for name in names:
        if len(raw[name]) == 0 or len(raw[name]) % _CIFAR_ROW:
            got = f"{len(raw[name])} bytes, no multiple of {_CIFAR_ROW}"
            raise DataUnavailable(f"{path}: {name} is damaged: {got}; fetch it again")
    rows = np.concatenate([np.frombuffer(raw[name], dtype=np.uint8).reshape(-1, _CIFAR_ROW) for name in names])
    images = np.ascontiguousarray(rows[:, 1:]).reshape(-1, 3, 32, 32)
    return Part(torch.from_numpy(images), torch.from_numpy(rows[:, 0].astype(np.int64)))


def read_folder(root: Path, size: int | None, greyscale: bool) -> tuple[Part, tuple[str, ...]]:
    """Images by class folder, ``root/<class>/**/<image>``, in torchvision's `ImageFolder` order.

    Classes are the sorted folder names; rows are sorted by path. With ``size`` an image is cropped to its central
    square and resized bilinearly, with antialiasing, to size x size pixels.

    Returns:
        The rows, (N, 1 or 3, H, W) uint8, and the class names.

    Raises:
        BadSetting: for a class without images, an image that cannot be read, or images of different sizes.
    """
    from PIL import Image, ImageOps

    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(f for f in (root / name).rglob("*") if f.suffix.lower() in _EXTENSIONS and f.is_file())
        if not files:
            raise BadSetting(f"class folder {root / name} holds no image ({', '.join(sorted(_EXTENSIONS))}); remove it")
        for file in files:
            try:
                with Image.open(io.BytesIO(file.read_bytes())) as opened:
                    if opened.mode.startswith(("I", "F")):
                        raise BadSetting(f"{file} has more than 8 bits a channel ({opened.mode}); convert it to 8 bits")
                    image = opened.convert("L" if greyscale else "RGB")
            except (OSError, Image.DecompressionBombError) as error:
                raise BadSetting(f"{file} cannot be read as an image ({error}); repair or remove it") from None
            if size is not None:
                image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image, dtype=np.uint8)
            images.append(pixels[None] if greyscale else pixels.transpose(2, 0, 1))
            labels.append(label)
            if images[-1].shape != images[0].shape:
                got = f"{images[0].shape[1:]} and, in {file}, {images[-1].shape[1:]}"
                raise BadSetting(f"{root}: images are of different sizes, {got}; set `size` to bring them to one")
    if not images:
        raise BadSetting(f"{root} holds no class folders; wanted {root}/<class>/<image>")
    return Part(torch.from_numpy(np.stack(images)), torch.tensor(labels)), classes
