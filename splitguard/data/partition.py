# SPDX-License-Identifier: Apache-2.0
"""How training rows are dealt to clients: once, from the seed, no row lost and none given twice."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitguard.errors import BadSetting
from splitguard.registry import Registry, Spec, settings_of
from splitguard.seeding import numpy_generator

__all__ = ["PARTITIONS", "Dirichlet", "Iid", "Partition", "Shards", "canonical", "partition"]

Ints = NDArray[np.int64]
_TRIES = 10_000


class Partition(ABC):
    """A way of dealing rows to clients; a dataclass whose fields are its settings."""

    name: ClassVar[str]

    @abstractmethod
    def deal(self, labels: Ints, clients: int, victims: Ints, gen: np.random.Generator) -> list[Ints]:
        """For each client the positions it holds; together every position 0..N-1 exactly once.

        Args:
            labels: (N,), the class of each row.
            clients: how many clients, at most N.
            victims: positions of the member victims among the rows.
            gen: draws from here only.
        """

    def __str__(self) -> str:
        return self.name


PARTITIONS: Registry[Partition] = Registry("partition", group="splitguard.partitions")


@PARTITIONS.add("iid")
@dataclass(frozen=True)
class Iid(Partition):
    """Rows dealt in random order, one client after the other, member victims first.

    So the numbers of rows, and of member victims, differ by at most one between clients.
    """

    def deal(self, labels: Ints, clients: int, victims: Ints, gen: np.random.Generator) -> list[Ints]:
        """Each client in turn gets the next row."""
        rest = np.setdiff1d(np.arange(len(labels)), victims)
        order = np.concatenate([gen.permutation(victims), gen.permutation(rest)])
        return [order[client::clients] for client in range(clients)]


@PARTITIONS.add("dirichlet")
@dataclass(frozen=True)
class Dirichlet(Partition):
    """Label skew: for each class, shares p ~ Dir(alpha, ..., alpha) over the clients, and its rows are cut accordingly.

    alpha to infinity: every client gets the same share of every class. alpha to 0: each class goes to one client.
    Proportions are drawn again until every client has ``minimum`` rows, so the law is Dirichlet given that.

    Args:
        alpha: concentration, in [1e-6, 1e12]; the literature uses 0.1 to 1.
        minimum: rows that every client gets at least.

    Source: Yurochkin et al. (2019), Bayesian nonparametric federated learning, with its redrawing. Hsu et al. (2019,
    arXiv 1909.06335) draw over the classes for each client instead, which needs equal client sizes. Unlike the code of
    Li et al. (2022, NIID-Bench), a client that has its even share already still receives rows: cutting it off is no
    Dirichlet draw.
    """

    alpha: float
    minimum: int = 10

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and 1e-6 <= self.alpha <= 1e12):
            raise BadSetting(f"dirichlet: alpha must lie in [1e-6, 1e12]; got {self.alpha}")
        if self.minimum < 1:
            raise BadSetting(f"dirichlet: minimum must be 1 row or more, a client needs rows; got {self.minimum}")

    def __str__(self) -> str:
        return f"dirichlet({self.alpha:g})"

    def deal(self, labels: Ints, clients: int, victims: Ints, gen: np.random.Generator) -> list[Ints]:
        """Proportions of every class, redrawn until all clients have enough; then random rows of each class."""
        if clients * self.minimum > len(labels):
            raise BadSetting(
                f"dirichlet: {clients} clients with at least {self.minimum} rows each need {clients * self.minimum} "
                f"rows; there are {len(labels)}. Lower `clients` or `minimum`, or raise `train`"
            )
        classes, counts = np.unique(labels, return_counts=True)
        best = 0
        for _ in range(_TRIES):
            shares = gen.dirichlet(np.full(clients, self.alpha), size=len(classes))
            cuts = np.rint(np.cumsum(shares, axis=1)[:, :-1] * counts[:, None]).astype(np.int64)
            smallest = int(np.diff(cuts, axis=1, prepend=0, append=counts[:, None]).sum(0).min())
            if smallest >= self.minimum:
                break
            best = max(best, smallest)
        else:
            raise BadSetting(
                f"dirichlet: alpha {self.alpha:g}, {clients} clients, {len(classes)} classes: in {_TRIES} draws the "
                f"smallest client had at most {best} rows; wanted {self.minimum}. Raise `alpha` or `train`, or lower "
                "`clients` or `minimum`"
            )
        pieces = [
            np.split(gen.permutation(np.flatnonzero(labels == k)), cut) for k, cut in zip(classes, cuts, strict=True)
        ]
        return [np.concatenate(held) for held in zip(*pieces, strict=True)]


@PARTITIONS.add("shards")
@dataclass(frozen=True)
class Shards(Partition):
    """Rows sorted by label, cut into ``clients * per_client`` equal shards, ``per_client`` of them to each client.

    Shard sizes differ by at most one row; none is cut off.

    Args:
        per_client: shards a client; at most about this many classes a client, when classes are larger than shards.

    Source: McMahan et al. (2017), Communication-efficient learning of deep networks; there 2 shards of 300 rows each.
    """

    per_client: int = 2

    def __post_init__(self) -> None:
        if self.per_client < 1:
            raise BadSetting(f"shards: per_client must be 1 or more; got {self.per_client}")

    def __str__(self) -> str:
        return f"shards({self.per_client})"

    def deal(self, labels: Ints, clients: int, victims: Ints, gen: np.random.Generator) -> list[Ints]:
        """Random shards of the sorted rows."""
        shards = clients * self.per_client
        if shards > len(labels):
            wanted = f"{clients} clients x {self.per_client} shards need {shards} rows or more"
            raise BadSetting(f"shards: {wanted}; there are {len(labels)}. Lower `clients` or `per_client`")
        order = gen.permutation(len(labels))
        pieces = np.array_split(order[np.argsort(labels[order], kind="stable")], shards)
        dealt = gen.permutation(shards).reshape(clients, self.per_client)
        return [np.concatenate([pieces[shard] for shard in own]) for own in dealt]


def canonical(how: Spec) -> Spec:
    """The partition with every setting resolved, as it is written to records: ``"iid"``, ``{"shards": {...}}``.

    Raises:
        UnknownName: for the name or a setting, with near misses.
        BadSetting: for a value that does not fit.
    """
    built = PARTITIONS.build(how)
    settings = settings_of(built)
    return {built.name: settings} if settings else built.name


def partition(labels: Tensor, how: Spec, clients: int, seed: int, victims: Tensor | None = None) -> tuple[Tensor, ...]:
    """Deals N rows to clients.

    Under ``iid`` member victims are dealt first, so that they are spread evenly; the other partitions leave them
    where the labels put them, and a client may hold none.

    Args:
        labels: (N,), int64.
        how: ``"iid"``, ``{"dirichlet": {"alpha": 0.3}}``, ``{"shards": {"per_client": 2}}``, or a registered name.
        clients: 1..N.
        seed: of the session; the same seed deals the same way.
        victims: (V,), positions of the member victims in 0..N-1.

    Returns:
        For each client its positions, ascending; every position 0..N-1 is dealt once, and no client is empty.

    Raises:
        UnknownName: for the name or a setting, with near misses.
        BadSetting: if there are too few rows, with the numbers.
    """
    built = PARTITIONS.build(how)
    if not 1 <= clients <= len(labels):
        raise BadSetting(f"clients must lie in 1..{len(labels)}, the number of training rows; got {clients}")
    chosen = np.empty(0, np.int64) if victims is None else victims.numpy().astype(np.int64)
    gen = numpy_generator(seed, "partition", str(built))
    dealt = [np.sort(rows) for rows in built.deal(labels.numpy().astype(np.int64), clients, chosen, gen)]
    if not np.array_equal(np.sort(np.concatenate(dealt)), np.arange(len(labels))):
        raise BadSetting(f"partition {built}: it lost rows or dealt some twice; mend its `deal`")
    if len(dealt) != clients or min(map(len, dealt)) == 0:
        sizes = [len(rows) for rows in dealt]
        raise BadSetting(f"partition {built}: wanted {clients} clients with a row or more each; got sizes {sizes}")
    return tuple(torch.from_numpy(rows) for rows in dealt)
