# SPDX-License-Identifier: Apache-2.0
"""Data sets by name: functions that read files of this machine into a `Pool`."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splitguard.data.downloads import places
from splitguard.data.files import Part, read_cifar10, read_folder, read_idx, read_npz
from splitguard.data.pool import Pool, from_dataset
from splitguard.errors import BadSetting, DataUnavailable, UnknownName, near_miss
from splitguard.registry import Registry

__all__ = ["DATASETS", "open_pool", "source_settings"]

DATASETS: Registry[Pool] = Registry("data set", group="splitguard.datasets")
DATASETS.add("dataset")(from_dataset)

_DEBIAN = Path("/usr/share/datasets")
_DIGITS = tuple("0123456789")
_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def source_settings(name: str, settings: Mapping[str, Any], near: Iterable[str] = ()) -> dict[str, Any]:
    """The settings of the source ``name``, checked, defaults filled in.

    Args:
        name: of the data set.
        settings: what the caller wrote.
        near: further names that a misspelt setting may have meant.

    Raises:
        UnknownName: for the name or a setting, with near misses.
        BadSetting: for a value of the wrong type, or a setting that is missing.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    source = DATASETS.get(name)
    parameters = inspect.signature(source).parameters
    hints = typing.get_type_hints(source)
    out = {key: p.default for key, p in parameters.items() if p.default is not inspect.Parameter.empty}
    for key, value in settings.items():
        if key not in parameters:
            raise UnknownName(near_miss(key, {*parameters, *near}, what=f"setting of data {name!r}:"))
        adapter: TypeAdapter[Any] = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True))
        try:
            out[key] = adapter.validate_python(str(value) if isinstance(value, Path) else value)
        except ValidationError as error:
            wanted = "; ".join(sorted({e["msg"] for e in error.errors()}))
            raise BadSetting(f"data set {name!r}: setting {key!r} got {value!r}: {wanted}") from None
    missing = [key for key in parameters if key not in out]
    if name == "dataset" and missing:
        raise BadSetting("a torch Dataset is a Python object, not a name: pass the object itself as the data")
    if missing:
        raise BadSetting(f"data set {name!r} needs the setting {' and '.join(map(repr, missing))}")
    return out


def open_pool(name: str, settings: Mapping[str, Any] | None = None) -> Pool:
    """The data set called ``name``, read from this machine; nothing is downloaded here.

    Raises:
        UnknownName: for the name or a setting, with near misses.
        BadSetting: for a setting or a file that does not fit.
        DataUnavailable: if the files are not on this machine; says what was looked for and how to get it.
    """
    return DATASETS.get(name)(**source_settings(name, settings or {}))


@DATASETS.add("faces")
def faces() -> Pool:
    """100 faces and 100 other patches, 1x25x25 grey, inside scikit-image; the task is face or not, victims are faces.

    A subset of Labeled Faces in the Wild (Huang et al., 2007).
    """
    from skimage.data import lfw_subset

    images: NDArray[np.float64] = lfw_subset()
    labels = (torch.arange(len(images)) < 100).long()  # scikit-image's order: the first 100 are faces
    return Pool("faces", torch.from_numpy(images).float()[:, None], labels, None, None, ("other", "face"), 1)


@DATASETS.add("fashion-mnist")
def fashion_mnist(path: str | None = None) -> Pool:
    """60,000 and 10,000 pieces of clothing, 1x28x28 grey, 10 classes (Xiao et al., 2017).

    Args:
        path: a folder with the four idx files, or an npz; by default ``$SPLITGUARD_DATA``, the download of
            ``splitguard fetch fashion-mnist`` and Debian's package dataset-fashion-mnist, in this order.
    """
    return _mnist_like("fashion-mnist", "FashionMNIST", path, _CLOTHES, ("fashion-mnist.npz",))


@DATASETS.add("mnist")
def mnist(path: str | None = None) -> Pool:
    """60,000 and 10,000 handwritten digits, 1x28x28 grey, 10 classes (LeCun et al., 1998).

    Args:
        path: a folder with the four idx files, or an npz; by default ``$SPLITGUARD_DATA`` (there also mnist.npz and
            mnist10k.npz) and the download of ``splitguard fetch mnist``, in this order.
    """
    return _mnist_like("mnist", "MNIST", path, _DIGITS, ("mnist.npz", "mnist10k.npz"))


def _mnist_like(name: str, torchvision: str, path: str | None, classes: tuple[str, ...], npz: tuple[str, ...]) -> Pool:
    """Idx files or an npz; a folder may also be a torchvision root, ``<root>/<torchvision>/raw``."""
    if path is not None:
        looked = [Path(path), Path(path) / torchvision / "raw"]
    else:
        looked = [*places(name, f"{torchvision}/raw", *npz), _DEBIAN / name]
    for place in looked:
        if place.suffix == ".npz" and place.is_file():
            return _pool(name, *read_npz(place), classes)
        files = [_first(place / f"{stem}.gz", place / stem) for stem in _IDX]
        if None not in files:
            x, y, test_x, test_y = (torch.from_numpy(read_idx(file).copy()) for file in files if file is not None)
            return _pool(name, Part(x[:, None], y), Part(test_x[:, None], test_y), classes)
    raise _absent(name, looked, f"the idx files {_IDX[0]}[.gz] and so on, or {npz[0]}")


@DATASETS.add("cifar10")
def cifar10(path: str | None = None) -> Pool:
    """50,000 and 10,000 photographs, 3x32x32 colour, 10 classes (Krizhevsky, 2009); or a part of them, from an npz.

    The binary version is read, never the python one: that is a set of pickles.

    Args:
        path: an npz, cifar-10-binary.tar.gz, or a folder that is or holds cifar-10-batches-bin; by default
            ``$SPLITGUARD_DATA`` (there also cifar10.npz) and the download of ``splitguard fetch cifar10``.
    """
    names = ("cifar10.npz", "cifar10/cifar-10-binary.tar.gz", "cifar-10-binary.tar.gz", "cifar-10-batches-bin")
    looked = list(places(*names)) if path is None else [Path(path) / "cifar-10-batches-bin", Path(path)]
    for place in looked:
        if place.suffix == ".npz" and place.is_file():
            return _pool("cifar10", *read_npz(place), _CIFAR)
        if place.is_file() or (place / "test_batch.bin").is_file() or place.name == "cifar-10-batches-py":
            return _pool("cifar10", *read_cifar10(place), _CIFAR)
    raise _absent("cifar10", looked, "cifar10.npz or cifar-10-binary.tar.gz")


@DATASETS.add("npz")
def npz(path: str, class_names: tuple[str, ...] = (), victim_class: int | None = None) -> Pool:
    """Any MedMNIST-style npz: train_images, train_labels and, optionally, val_* (counted as training rows) and test_*.

    Args:
        path: the file.
        class_names: K names; by default the numbers.
        victim_class: draw victims from this class only; None: from all.
    """
    if not Path(path).is_file():
        raise DataUnavailable(f"no file {path}; set `path` to an npz with train_images and train_labels")
    return _pool(Path(path).stem, *read_npz(Path(path)), class_names, victim_class)


@DATASETS.add("folder")
def folder(path: str, size: int | None = None, greyscale: bool = False, victim_class: int | None = None) -> Pool:
    """Images by class folder, ``path/<class>/<image>``; or ``path/train/<class>/...`` beside ``path/test/<class>/...``.

    Args:
        path: the folder.
        size: pixels; images are cropped to the central square and resized to size x size. None: as they are.
        greyscale: one channel in place of three.
        victim_class: draw victims from this class (its place among the sorted folder names) only; None: from all.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataUnavailable(f"no folder {path}; set `path` to a folder of images by class folder")
    if size is not None and size < 1:
        raise BadSetting(f"size must be 1 or more pixels; got {size}")
    if not ((root / "train").is_dir() and (root / "test").is_dir()):
        part, classes = read_folder(root, size, greyscale)
        return _pool(root.name, part, None, classes, victim_class)
    part, classes = read_folder(root / "train", size, greyscale)
    test, test_classes = read_folder(root / "test", size, greyscale)
    if classes != test_classes:
        raise BadSetting(f"{path}: train has the class folders {classes}, test has {test_classes}; they must agree")
    return _pool(root.name, part, test, classes, victim_class)


def _pool(name: str, train: Part, test: Part | None, classes: tuple[str, ...], victim_class: int | None = None) -> Pool:
    test_inputs, test_labels = (None, None) if test is None else (test.inputs, test.labels)
    return Pool(name, train.inputs, train.labels, test_inputs, test_labels, classes, victim_class)


def _first(*files: Path) -> Path | None:
    return next((file for file in files if file.is_file()), None)


def _absent(name: str, looked: list[Path], wanted: str) -> DataUnavailable:
    where = ", ".join(map(str, looked))
    return DataUnavailable(
        f"{name} is not on this machine: looked for {wanted} in {where}. "
        f"Get it with `splitguard fetch {name}`, or set `path` or SPLITGUARD_DATA to where it lies"
    )
