# SPDX-License-Identifier: Apache-2.0
"""Rows of data, and the pairwise disjoint parts that one deployment uses."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Data", "Rows"]


@dataclass(frozen=True)
class Rows:
    """Rows with their labels and their ids.

    Attributes:
        inputs: (N, *in), float32; images lie in [0, 1].
        labels: (N,), int64, in 0..classes-1.
        ids: (N,), int64, unique within one `Data`.
    """

    inputs: Tensor
    labels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Tensor | slice) -> Rows:
        return Rows(self.inputs[index], self.labels[index], self.ids[index])

    def of(self, ids: Tensor) -> Rows:
        """The rows with these ids, in that order; raises KeyError for an id that is not here."""
        order = torch.argsort(self.ids)
        found = torch.searchsorted(self.ids[order], ids).clamp(max=len(self) - 1)
        index = order[found]
        if not torch.equal(self.ids[index], ids):
            raise KeyError("some ids are not among these rows")
        return self[index]


@dataclass(frozen=True)
class Data:
    """What one deployment trains on, is tested on, and is attacked with; all parts are pairwise disjoint.

    Attributes:
        name: of the source.
        classes: number of classes, K.
        train: the private training rows of all clients together.
        test: rows that measure utility.
        aux: the attacker's own samples.
        query: rows never trained on, sent once through the deployed pipeline after training.
        members: ids of the member victims, all of them in ``train``.
        clients: for each client the ids of its training rows; together they are ``train``.
        class_names: one a class, for people.
        partition: how the rows were dealt, as in ``"iid"`` or ``"dirichlet(0.3)"``.
        digest: SHA-256 over which rows are where, 16 hex digits.
    """

    name: str
    classes: int
    train: Rows
    test: Rows
    aux: Rows
    query: Rows
    members: Tensor
    clients: tuple[Tensor, ...]
    class_names: tuple[str, ...] = field(default=())
    partition: str = "iid"
    digest: str = ""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def classes_prior(self) -> Tensor:
        """(K,), the class frequencies among the auxiliary rows: what the attacker may know of the prior."""
        counts = torch.bincount(self.aux.labels, minlength=self.classes).double()
        return counts / counts.sum().clamp(min=1)
