# SPDX-License-Identifier: Apache-2.0
"""A task coarser than the data set's classes: the network is trained on groups of classes, the class is a secret."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from splitguard.data.pool import Pool
from splitguard.data.rows import Data
from splitguard.data.sizes import whole
from splitguard.errors import BadSetting

__all__ = ["check_coarse", "made_coarse", "renumbered"]


def renumbered(coarse: Sequence[int]) -> tuple[int, ...]:
    """The same groups of classes, numbered in the order in which they first appear: one task has one written form.

    Raises:
        BadSetting: if it is no list of whole numbers, 0 or more.

    >>> renumbered([7, 7, 3, 7, 0])
    (0, 0, 1, 0, 2)
    """
    if isinstance(coarse, str | int) or not isinstance(coarse, Sequence) or len(coarse) == 0:
        raise BadSetting(f"coarse is a list, the coarse label of each class, as in [0, 0, 1]; got {coarse!r}")
    given = [whole(label, "coarse", 0) for label in coarse]
    order = list(dict.fromkeys(given))
    return tuple(order.index(label) for label in given)


def check_coarse(coarse: Sequence[int], pool: Pool) -> None:
    """Refuses coarse labels that do not fit the pool's classes, or that hide nothing.

    Raises:
        BadSetting: unless there is one for each class, they are 0..L-1 with L of 2 or more, and one of them stands for
            several classes.
    """
    owner = f"data {pool.name!r}"
    if len(coarse) != pool.classes:
        names = ", ".join(pool.class_names[:10])
        raise BadSetting(
            f"{owner}: coarse needs one label for each of the {pool.classes} classes ({names}); got {len(coarse)}"
        )
    groups = len(set(coarse))
    if set(coarse) != set(range(groups)) or groups < 2:
        raise BadSetting(f"{owner}: coarse must use the labels 0..L-1, L of 2 or more; got {sorted(set(coarse))}")
    if groups == pool.classes:
        raise BadSetting(f"{owner}: coarse gives every class a label of its own, so nothing is hidden; merge some")


def made_coarse(data: Data, coarse: Sequence[int]) -> Data:
    """The same rows in the same places, labelled coarsely; each row's class becomes its attribute.

    Args:
        data: labelled by class.
        coarse: for each class its coarse label, as `check_coarse` wants it.

    Returns:
        Classes are named after those that they stand for, as in ``"Sandal | Sneaker | Ankle boot"``. The digest covers
        that of ``data`` and ``coarse``.
    """
    to = torch.tensor(coarse)
    groups: list[list[str]] = [[] for _ in range(len(set(coarse)))]
    for label, name in zip(coarse, data.class_names, strict=True):
        groups[label].append(name)
    parts: dict[str, Any] = {
        part: replace(rows, labels=to[rows.labels], attributes=rows.labels) for part, rows in data.parts.items()
    }
    text = f"{data.digest}: coarse {list(map(int, coarse))}"
    return replace(
        data,
        **parts,
        classes=len(groups),
        class_names=tuple(" | ".join(names) for names in groups),
        attribute_names=data.class_names,
        victim_class=None if data.victim_class is None else coarse[data.victim_class],
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
    )
