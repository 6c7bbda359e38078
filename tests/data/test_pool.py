# SPDX-License-Identifier: Apache-2.0
"""A pool takes well-formed rows only, and any torch Dataset of pairs becomes one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from splitguard.data import Pool, from_dataset
from splitguard.data.pool import as_float
from splitguard.errors import BadSetting, NotSupported

IMAGES = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1])


class Pairs(Dataset[Any]):
    """Pairs from lists, with class names as torchvision's data sets have them."""

    classes = ("cat", "dog", "eel")

    def __init__(self, inputs: list[Any], labels: list[Any]) -> None:
        self.pairs = list(zip(inputs, labels, strict=True))

    def __getitem__(self, index: int) -> Any:
        return self.pairs[index]

    def __len__(self) -> int:
        return len(self.pairs)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield IMAGES[0], 0


def test_all_256_intensities_become_the_float_torchvision_gives() -> None:
    # ToTensor is `.to(float32).div(255)`; numpy's division of float32 by float32 is the same IEEE operation.
    got = as_float(torch.arange(256, dtype=torch.uint8))
    assert np.array_equal(got.numpy(), np.arange(256, dtype=np.float32) / np.float32(255))
    assert got[255] == 1


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (IMAGES, LABELS[:3], r"wanted inputs \(N, \.\.\.\) and labels \(N,\)"),
        (IMAGES, LABELS[:, None], r"labels \(4, 1\)"),
        (IMAGES[:0], LABELS[:0], "with N >= 1"),
        (IMAGES, LABELS.float(), "integer labels"),
        ((IMAGES * 255).int(), LABELS, "uint8 or floating inputs"),
        (IMAGES * 255, LABELS, r"must lie in \[0, 1\]; these lie in \[.*leave out Normalize"),
        (IMAGES - 0.5, LABELS, r"must lie in \[0, 1\]"),
        (IMAGES.log().masked_fill(IMAGES > 0.5, torch.nan), LABELS, "inputs hold NaN or infinity"),
        (torch.tensor([[1.0], [torch.inf], [2.0], [3.0]]), LABELS, "1 of 4 inputs hold NaN or infinity"),
        (IMAGES, LABELS - 1, r"labels must lie in 0\.\.1, of 2 classes or more; got -1\.\.1"),
        (IMAGES, LABELS * 0, "2 classes or more"),
    ],
)
def test_malformed_rows_are_refused(inputs: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Pool("toy", inputs, labels)


def test_official_test_rows_must_be_alike_and_complete() -> None:
    with pytest.raises(BadSetting, match="only one of them came"):
        Pool("toy", IMAGES, LABELS, IMAGES)
    with pytest.raises(BadSetting, match="must be alike"):
        Pool("toy", IMAGES, LABELS, IMAGES[..., :2], LABELS)
    with pytest.raises(BadSetting, match="must be alike"):
        Pool("toy", IMAGES, LABELS, torch.zeros(4, 1, 3, 3, dtype=torch.uint8), LABELS)
    assert Pool("toy", IMAGES, LABELS, IMAGES[:1], torch.tensor([4])).classes == 5


def test_class_names_and_the_victim_class_must_fit() -> None:
    with pytest.raises(BadSetting, match=r"0\.\.1, of 2 classes or more; got 0\.\.2"):
        Pool("toy", IMAGES, LABELS, class_names=("a", "b"))
    with pytest.raises(BadSetting, match=r"victim_class must lie in 0\.\.2; got 3"):
        Pool("toy", IMAGES, LABELS, victim_class=3)


def test_features_of_a_table_need_not_lie_in_the_unit_interval() -> None:
    table = torch.tensor([[-3.0, 7.0], [0.0, 1e6], [-3.0, 7.0]], dtype=torch.float64)
    pool = Pool("table", table, torch.tensor([0, 1, 1]))
    assert pool.inputs.dtype == torch.float32
    assert pool.distinct.all(), "equal rows of a table are no copies of one another"


def test_exact_copies_of_images_are_known_across_training_and_test_rows() -> None:
    images = torch.stack([IMAGES[0], IMAGES[1], IMAGES[0]])
    pool = Pool("toy", images, LABELS[:3], torch.stack([IMAGES[2], IMAGES[1]]), LABELS[:2])
    assert pool.distinct.tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("kind", ["tensor", "array", "tensordataset"])
def test_a_dataset_of_pairs_becomes_the_same_rows(kind: str) -> None:
    inputs = list(IMAGES) if kind == "tensor" else [image.numpy() for image in IMAGES]
    labels = [0, torch.tensor(1), np.int64(2), 1]
    dataset = TensorDataset(IMAGES, LABELS) if kind == "tensordataset" else Pairs(inputs, labels)
    pool = from_dataset(dataset, Pairs(inputs[:1], [2]))
    assert torch.equal(pool.inputs, IMAGES)
    assert torch.equal(pool.labels, LABELS)
    assert pool.test_labels is not None
    assert pool.test_labels.tolist() == [2]
    assert pool.class_names == (("0", "1", "2") if kind == "tensordataset" else ("cat", "dog", "eel"))


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (Stream(), NotSupported, "without a length"),
        (Pairs([], []), BadSetting, "is empty"),
        (Pairs(["a.png"], [0]), NotSupported, r"got str; pass transform=ToTensor\(\)"),
        (Pairs([IMAGES[0], IMAGES[0, :, :2]], [0, 1]), BadSetting, r"row 0 \(1, 3, 3\), row 1 \(1, 2, 3\)"),
        (TensorDataset(IMAGES), NotSupported, r"not a pair \(input, label\)"),
    ],
)
def test_other_datasets_are_refused_with_the_way_out(
    dataset: Dataset[Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        from_dataset(dataset)
