# SPDX-License-Identifier: Apache-2.0
"""Rows of data, and the pairwise disjoint parts that one deployment uses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from splitguard.data.sizes import whole
from splitguard.errors import BadSetting

__all__ = ["Data", "Rows"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows with their labels and their ids.

    Attributes:
        inputs: (N, *in), float32; images lie in [0, 1].
        labels: (N,), int64, in 0..classes-1.
        ids: (N,), int64, unique within one `Data`.
        attributes: (N,), int64, what is true of a row and no part of the task: its fine class, where the labels are
            coarse ones. None where nothing of the kind is known.

    Raises:
        BadSetting: if they differ in length.
    """

    inputs: Tensor
    labels: Tensor
    ids: Tensor
    attributes: Tensor | None = None

    def __post_init__(self) -> None:
        if not len(self.inputs) == len(self.labels) == len(self.ids):
            got = f"{len(self.inputs)} inputs, {len(self.labels)} labels and {len(self.ids)} ids"
            raise BadSetting(f"rows need as many labels and ids as inputs; got {got}")
        if self.attributes is not None and len(self.attributes) != len(self.ids):
            raise BadSetting(f"rows need one attribute each; got {len(self.attributes)} for {len(self.ids)} rows")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Tensor | slice) -> Rows:
        attributes = None if self.attributes is None else self.attributes[index]
        return Rows(self.inputs[index], self.labels[index], self.ids[index], attributes)

    def of(self, ids: Tensor) -> Rows:
        """The rows with these ids, in that order; raises KeyError that names an id which is not here."""
        if len(self) == 0 and len(ids) > 0:
            raise KeyError(f"id {int(ids[0])} is not here: these rows are empty")
        order = torch.argsort(self.ids)
        index = order[torch.searchsorted(self.ids[order], ids).clamp(max=max(len(self) - 1, 0))]
        absent = ids[self.ids[index] != ids]
        if len(absent) > 0:
            raise KeyError(
                f"{len(absent)} of {len(ids)} ids are not among these {len(self)} rows; first: {int(absent[0])}"
            )
        return self[index]


@dataclass(frozen=True, eq=False)
class Data:
    """What one deployment trains on, is tested on, and is attacked with; all parts are pairwise disjoint.

    That the parts are disjoint, that the members are training rows and that the clients together hold the training
    rows, each once and no client none, is checked here, so whoever has a `Data` can rely on it.

    Attributes:
        name: of the source.
        classes: number of classes, K.
        train: the private training rows of all clients together.
        test: rows that measure utility.
        aux: the attacker's own samples.
        query: rows never trained on, sent once through the deployed pipeline after training.
        members: ids of the member victims, all of them in ``train``.
        clients: for each client the ids of its training rows, one or more; together they are ``train``.
        class_names: one a class, for people.
        partition: how the rows were dealt, as in ``"iid"`` or ``"dirichlet(0.3)"``.
        digest: SHA-256 over which rows are where, 16 hex digits.
        victim_class: the class of all victims where the task says so, as faces does; everybody knows it. None: any.
        attribute_names: for people, one for each value of the rows' attributes; empty where rows have none.
        known: of how many rows a class, among those that a label attack reads, the attacker is told the label. No row
            is drawn by it, so the digest does not cover it.

    Raises:
        BadSetting: if any of that does not hold.
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
    victim_class: int | None = None
    attribute_names: tuple[str, ...] = field(default=())
    known: int = 1

    def __post_init__(self) -> None:
        whole(self.known, "known", 0)
        owner: dict[int, str] = {}
        for part, rows in self.parts.items():
            if len(rows) > 0 and not 0 <= int(rows.labels.min()) <= int(rows.labels.max()) < self.classes:
                wanted = f"labels of {part} must lie in 0..{self.classes - 1}"
                raise BadSetting(f"{wanted}; got {int(rows.labels.min())}..{int(rows.labels.max())}")
            _check_attributes(rows, part, len(self.attribute_names))
            for row in rows.ids.tolist():
                if row in owner:
                    raise BadSetting(f"id {row} is in {owner[row]} and again in {part}; every row has one place")
                owner[row] = part
        members = self.members.tolist()
        outside = [row for row in members if owner.get(row) != "train"]
        if outside or len(set(members)) < len(members):
            raise BadSetting(
                f"member victims are distinct training rows; not in train: {outside[:5]}, of {len(members)}"
            )
        for number, own in enumerate(self.clients):
            if len(own) == 0:
                raise BadSetting(f"client {number} holds no training row; every client needs one or more")
        held = torch.cat(self.clients).sort().values if self.clients else self.train.ids[:0]
        if not torch.equal(held, self.train.ids.sort().values):
            raise BadSetting(
                f"the clients together must hold every training row once; they hold {len(held)} rows, "
                f"{len(set(held.tolist()))} different ones, and train has {len(self.train)}"
            )

    def __str__(self) -> str:
        shape = "x".join(map(str, self.input_shape))
        sizes = ", ".join(f"{part} {len(rows)}" for part, rows in self.parts.items())
        dealt = f"{len(self.clients)} client{'s' * (len(self.clients) != 1)} ({self.partition})"
        what = f"{self.name} [{self.digest}]: {self.classes} classes, {shape}"
        return f"{what}, {sizes}, members {len(self.members)}, {dealt}"

    @property
    def parts(self) -> dict[str, Rows]:
        """The four disjoint parts by name."""
        return {"train": self.train, "test": self.test, "aux": self.aux, "query": self.query}

    def double(self) -> Data:
        """The same rows in float64."""
        wide: dict[str, Any] = {name: replace(rows, inputs=rows.inputs.double()) for name, rows in self.parts.items()}
        return replace(self, **wide)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def attribute_classes(self) -> int | None:
        """How many values the rows' attributes may have; None where rows have none."""
        return len(self.attribute_names) or None

    @property
    def classes_prior(self) -> Tensor:
        """(K,), the class frequencies among the auxiliary rows, all that the attacker may know of the prior.

        NaN without auxiliary rows: then it is not known, which is not the same as zero.
        """
        counts = torch.bincount(self.aux.labels, minlength=self.classes).double()
        return counts / counts.sum()  # 0 / 0 is NaN


def _check_attributes(rows: Rows, part: str, values: int) -> None:
    """Every row has an attribute in 0..values-1; none has one where there are no values."""
    found = rows.attributes
    if (found is None) != (values == 0):
        raise BadSetting(
            f"{part}: attributes of rows go together with attribute_names, one a value; got {values} names and "
            f"{'no attributes' if found is None else 'attributes'}"
        )
    if found is not None and len(found) and not 0 <= int(found.min()) <= int(found.max()) < values:
        raise BadSetting(
            f"attributes of {part} must lie in 0..{values - 1}; got {int(found.min())}..{int(found.max())}"
        )
