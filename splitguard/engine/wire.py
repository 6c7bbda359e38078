# SPDX-License-Identifier: Apache-2.0
"""What crosses the cut: an `Exchange` is one batch on the wire, `Releases` are rows of many exchanges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

__all__ = ["DEPLOYED", "Exchange", "Phase", "Releases", "State", "entries", "joined", "size_of"]

State = dict[str, Tensor]
#: Stands for the head as deployed after training, where an entry's own snapshot was not kept.
DEPLOYED = -1


class Phase(StrEnum):
    """Why a row was sent."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    QUERY = "query"


@dataclass(frozen=True)
class Exchange:
    """One client's batch on the wire, after any defense; None where nothing was sent.

    Gradients are of the mean loss over this client's batch; times ``len(ids)`` they are per sample.

    Attributes:
        epoch: counted from 0.
        step: number of the training round, counted from 0 over the whole session.
        phase: why the rows were sent.
        client: which client sent them.
        ids: (N,) row ids.
        smashed: (N, *cut1), client to server.
        labels: (N,), client to server; or the server's own where it owns them.
        features: (N, *cut2), server to client.
        returned_grad: (N, *cut2), client to server.
        cut_grad: (N, *cut1), server to client.
        repeated: the rows were released before: the server took ``smashed`` from what it kept, and only ids went up.
    """

    epoch: int
    step: int
    phase: Phase
    client: int
    ids: Tensor
    smashed: Tensor
    labels: Tensor | None = None
    features: Tensor | None = None
    returned_grad: Tensor | None = None
    cut_grad: Tensor | None = None
    repeated: bool = False

    @property
    def batch_size(self) -> int:
        """N."""
        return len(self.ids)


@dataclass(frozen=True)
class Releases:
    """Rows as they crossed the wire, one entry for each sending of each row (a row may appear T times).

    Attributes:
        ids, epoch, step, client: (R,) int64.
        head: (R,) int64, the snapshot of the head (and tail) that made the entry; `DEPLOYED` where none was kept.
        batch: (R,) int64, size of the batch the row travelled in.
        smashed: (R, *cut1).
        labels, features, returned_grad, cut_grad: as in `Exchange`, with R in place of N; gradients are already
            times the batch size, that is, per sample.
    """

    ids: Tensor
    epoch: Tensor
    step: Tensor
    client: Tensor
    head: Tensor
    batch: Tensor
    smashed: Tensor
    labels: Tensor | None = None
    features: Tensor | None = None
    returned_grad: Tensor | None = None
    cut_grad: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def one_head(self) -> bool:
        """Whether one snapshot that was kept made all entries, as where the head is frozen."""
        return int(self.head[0]) != DEPLOYED and bool((self.head == self.head[0]).all())

    def where(self, chosen: Tensor) -> Releases:
        """The entries at a boolean mask (R,) or at positions (M,)."""
        taken: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        rows: dict[str, Any] = {k: None if v is None else v[chosen] for k, v in taken.items()}
        return Releases(**rows)

    def last(self, ids: Tensor) -> Releases:
        """For each id, in this order, its latest entry.

        Raises:
            KeyError: if an id was never released.
        """
        return self.where(self._positions(ids)[:, -1])

    def all_of(self, ids: Tensor) -> tuple[Releases, int]:
        """The latest T entries of each of ``ids``, ordered by id, then time, and T, the smallest number that any has.

        Of an id that has more, the earliest are left out.
        """
        positions = self._positions(ids)
        return self.where(positions.flatten()), positions.shape[1]

    def means(self, ids: Tensor) -> tuple[Tensor, int]:
        """For each id, in this order, the mean (N, *cut) of its latest T smashed entries, and T; see `all_of`.

        Entries that repeat each other, for every id, are one answer that was remembered: then T is 1.
        """
        rows, times = self.all_of(ids)
        each = rows.smashed.view(len(ids), times, *rows.smashed.shape[1:])
        if bool((each == each[:, :1]).all()):
            return each[:, 0], 1
        return each.mean(1), times

    def _positions(self, ids: Tensor) -> Tensor:
        """(N, T): where each id's latest T entries are, in order of time; T is the smallest count of any id."""
        found = [torch.nonzero(self.ids == i).flatten() for i in ids]
        least = min((len(f) for f in found), default=0)
        if least == 0:
            raise KeyError("some ids have no release in this view")
        return torch.stack([f[-least:] for f in found])

    def masked(self, hide: Iterable[str]) -> Releases:
        """A copy without the named channels."""
        nothing: dict[str, Any] = dict.fromkeys(hide)
        return replace(self, **nothing)

    def to_tensors(self, prefix: str) -> State:
        """A flat mapping for safetensors."""
        taken = {f.name: getattr(self, f.name) for f in fields(self)}
        return {f"{prefix}{k}": v.contiguous() for k, v in taken.items() if v is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str) -> Releases:
        """The inverse of `to_tensors`."""
        return cls(**{k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})


def size_of(state: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors together."""
    return sum(v.numel() * v.element_size() for v in state.values())


def entries(exchange: Exchange, chosen: Tensor, head: int) -> Releases:
    """The chosen rows of an exchange as releases; gradients become per sample."""
    count, size = int(chosen.sum()), exchange.batch_size

    def full(value: int) -> Tensor:
        return torch.full((count,), value, dtype=torch.int64)

    def rows(value: Tensor, scale: int = 1) -> Tensor:
        return (value.detach()[chosen.to(value.device)] * scale).cpu()

    def maybe(value: Tensor | None, scale: int = 1) -> Tensor | None:
        return None if value is None else rows(value, scale)

    return Releases(
        ids=exchange.ids[chosen],
        epoch=full(exchange.epoch),
        step=full(exchange.step),
        client=full(exchange.client),
        head=full(head),
        batch=full(size),
        smashed=rows(exchange.smashed),
        labels=maybe(exchange.labels),
        features=maybe(exchange.features),
        returned_grad=maybe(exchange.returned_grad, size),
        cut_grad=maybe(exchange.cut_grad, size),
    )


def joined(pieces: list[Releases]) -> Releases:
    """All pieces as one; pieces of one part carry the same channels."""
    columns: dict[str, Any] = {f.name: [getattr(p, f.name) for p in pieces] for f in fields(Releases)}
    whole: dict[str, Any] = {k: None if v[0] is None else torch.cat(v) for k, v in columns.items()}
    return Releases(**whole)
