# SPDX-License-Identifier: Apache-2.0
"""A data set as its source gives it: labelled rows, before anyone has drawn parts from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from splitguard.errors import BadSetting, NotSupported

__all__ = ["Pool", "as_float", "check_inputs", "from_dataset"]


def as_float(inputs: Tensor) -> Tensor:
    """float32 inputs: uint8 intensities 0..255 become [0, 1] (``x / 255``), floats stay as they are."""
    return inputs.float().div(255) if inputs.dtype == torch.uint8 else inputs.float()


def check_inputs(inputs: Tensor, owner: str) -> None:
    """Refuses numbers that are not finite and images (N, C, H, W) outside [0, 1].

    Raises:
        BadSetting: with the range found and what usually causes it.
    """
    if inputs.dtype == torch.uint8 or inputs.numel() == 0:
        return
    if not bool(torch.isfinite(inputs).all()):
        bad = int((~torch.isfinite(inputs)).flatten(1).any(1).sum())
        raise BadSetting(f"{owner}: {bad} of {len(inputs)} inputs hold NaN or infinity; repair them or leave them out")
    low, high = float(inputs.min()), float(inputs.max())
    if inputs.ndim == 4 and (low < 0 or high > 1):
        raise BadSetting(
            f"{owner}: images must lie in [0, 1]; these lie in [{low:.4g}, {high:.4g}]. Networks normalise inside: "
            "leave out Normalize, and give 0..255 as uint8 or divided by 255"
        )


@dataclass(frozen=True, eq=False)
class Pool:
    """Labelled rows of one source, from which `draw` takes the parts of a deployment.

    Attributes:
        name: of the source.
        inputs: (N, *in), uint8 intensities 0..255 or float32; float images (N, C, H, W) lie in [0, 1].
        labels: (N,), int64, in 0..K-1.
        test_inputs: (M, *in), the official test rows, or None where the source has none.
        test_labels: (M,), int64, or None.
        class_names: K names; by default the numbers.
        victim_class: the class from which all victims are drawn, where only that class has something to lose (faces
            among non-faces); None: all classes.

    Raises:
        BadSetting: for lengths, shapes, dtypes or ranges that do not agree.
    """

    name: str
    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor | None = None
    test_labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    victim_class: int | None = None

    def __post_init__(self) -> None:
        owner = f"data {self.name!r}"
        if (self.test_inputs is None) != (self.test_labels is None):
            raise BadSetting(f"{owner}: official test rows need inputs and labels; only one of them came")
        for which in ("", "test_"):
            inputs, labels = getattr(self, f"{which}inputs"), getattr(self, f"{which}labels")
            if inputs is None or labels is None:
                continue
            if labels.ndim != 1 or len(labels) != len(inputs) or inputs.ndim < 2 or len(inputs) == 0:
                got = f"{which}inputs {tuple(inputs.shape)}, {which}labels {tuple(labels.shape)}"
                raise BadSetting(f"{owner}: wanted inputs (N, ...) and labels (N,) with N >= 1; got {got}")
            if labels.is_floating_point() or (inputs.dtype != torch.uint8 and not inputs.is_floating_point()):
                got = f"{inputs.dtype} and {labels.dtype}"
                raise BadSetting(f"{owner}: wanted uint8 or floating inputs and integer labels; got {got}")
            if inputs.dtype != torch.uint8:
                inputs = inputs.float()
            check_inputs(inputs, owner)
            object.__setattr__(self, f"{which}inputs", inputs.detach().cpu())
            object.__setattr__(self, f"{which}labels", labels.detach().long().cpu())
        if self.test_inputs is not None and (
            self.test_inputs.shape[1:] != self.inputs.shape[1:] or self.test_inputs.dtype != self.inputs.dtype
        ):
            got = f"{tuple(self.inputs.shape[1:])} {self.inputs.dtype} and {tuple(self.test_inputs.shape[1:])}"
            raise BadSetting(f"{owner}: training and test rows must be alike; got {got} {self.test_inputs.dtype}")
        labels = torch.cat([self.labels, *([] if self.test_labels is None else [self.test_labels])])
        names = self.class_names or tuple(map(str, range(int(labels.max()) + 1)))
        object.__setattr__(self, "class_names", tuple(names))
        if int(labels.min()) < 0 or int(labels.max()) >= len(names) or len(names) < 2:
            wanted = f"labels must lie in 0..{len(names) - 1}, of 2 classes or more"
            raise BadSetting(f"{owner}: {wanted}; got {int(labels.min())}..{int(labels.max())}")
        if self.victim_class is not None and not 0 <= self.victim_class < len(names):
            raise BadSetting(f"{owner}: victim_class must lie in 0..{len(names) - 1}; got {self.victim_class}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """Number of classes, K."""
        return len(self.class_names)

    @cached_property
    def fingerprints(self) -> NDArray[np.void]:
        """(N + M,), 16 bytes each: BLAKE2b of every row as stored, training rows first, then official test rows."""
        both = [self.inputs, *([] if self.test_inputs is None else [self.test_inputs])]
        digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for part in both for row in part.numpy())
        return np.frombuffer(b"".join(digests), dtype="V16")

    @cached_property
    def distinct(self) -> NDArray[np.bool_]:
        """(N + M,), False for an image that is an exact copy of an earlier one; other inputs may repeat (tables do)."""
        out = np.ones(len(self.fingerprints), bool)
        if self.inputs.ndim == 4:
            out[:] = False
            out[np.unique(self.fingerprints, return_index=True)[1]] = True
        return out


def from_dataset(
    dataset: Dataset[Any],
    test: Dataset[Any] | None = None,
    *,
    name: str = "dataset",
    class_names: tuple[str, ...] = (),
    victim_class: int | None = None,
) -> Pool:
    """The pool of a torch `Dataset` of (input, label) pairs; every pair is read once, in order.

    A dataset that augments at random is read as it comes, once: leave augmentation to the setting ``augment``.

    Args:
        dataset: has a length; inputs are tensors or arrays of one shape, (C, H, W) for images; labels are integers.
        test: its official test rows, if it has any.
        name: for the records.
        class_names: K names; by default the dataset's own ``classes``, else the numbers.
        victim_class: as in `Pool`.

    Raises:
        NotSupported: for a dataset without a length, or inputs that are neither tensors nor arrays.
        BadSetting: as in `Pool`.
    """
    own = getattr(dataset, "classes", ())
    if not class_names and isinstance(own, list | tuple) and all(isinstance(n, str) for n in own):
        class_names = tuple(own)
    inputs, labels = _read(dataset, name)
    test_inputs, test_labels = (None, None) if test is None else _read(test, name)
    return Pool(name, inputs, labels, test_inputs, test_labels, class_names, victim_class)


def _read(dataset: Dataset[Any], name: str) -> tuple[Tensor, Tensor]:
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return dataset.tensors[0], dataset.tensors[1]
    if not isinstance(dataset, Sized):
        raise NotSupported(f"data {name!r}: a dataset without a length cannot be split; load it into a TensorDataset")
    inputs: list[Tensor] = []
    labels: list[int] = []
    for index in range(len(dataset)):
        pair = dataset[index]
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise NotSupported(f"data {name!r}: row {index} is {type(pair).__name__}, not a pair (input, label)")
        if not isinstance(pair[0], Tensor | np.ndarray):
            kind = type(pair[0]).__name__
            raise NotSupported(
                f"data {name!r}: inputs must be tensors or arrays, got {kind}; pass transform=ToTensor()"
            )
        inputs.append(torch.as_tensor(pair[0]))
        labels.append(int(pair[1]))
        if inputs[-1].shape != inputs[0].shape:
            got = f"row 0 {tuple(inputs[0].shape)}, row {index} {tuple(inputs[-1].shape)}"
            raise BadSetting(f"data {name!r}: all inputs need one shape; {got}. Resize them in the dataset's transform")
    if not inputs:
        raise BadSetting(f"data {name!r}: the dataset is empty")
    return torch.stack(inputs), torch.tensor(labels)
