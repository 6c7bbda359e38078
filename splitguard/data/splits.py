# SPDX-License-Identifier: Apache-2.0
"""Draws the pairwise disjoint parts of one deployment from a pool: stratified, seeded, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitguard.data.coarse import check_coarse, made_coarse
from splitguard.data.partition import PARTITIONS
from splitguard.data.partition import partition as deal
from splitguard.data.pool import Pool, as_float
from splitguard.data.rows import Data, Rows
from splitguard.data.sizes import copies, sizes, whole
from splitguard.errors import BadSetting
from splitguard.registry import Spec
from splitguard.seeding import numpy_generator

__all__ = ["draw", "quotas"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def draw(
    pool: Pool,
    *,
    clients: int = 1,
    partition: Spec = "iid",
    train: int | None = None,
    test: int | None = None,
    aux: int | None = None,
    aux_classes: Sequence[int] | None = None,
    victims: Mapping[str, int] | None = None,
    coarse: Sequence[int] | None = None,
    seed: int = 0,
) -> Data:
    """Draws train, test, auxiliary and query rows, picks the member victims, and deals train to the clients.

    Where rows come from: test rows from the official test rows where the pool has them; all others from its training
    rows, so that member and query victims are exchangeable and differ in nothing but having been trained on. Exact
    copies of an earlier image are never drawn, so that no image of one part lies in another one.

    Every part is stratified: its class counts are the pool's shares, by largest remainders, ties by lot. Where
    ``pool.victim_class`` is set, members and query rows are of that class only; if it then runs short, train, test
    and aux go without it in equal measure.

    While no class runs short, training rows depend on the seed and ``train`` alone, members on the seed and their
    number, test rows on the seed and ``test``, and query rows on these two and their number; so deployments that differ
    in ``clients``, ``partition``, ``aux`` or ``aux_classes`` have the same training rows, test rows and victims.

    Ids are a random numbering of the pool, and rows lie in the order of their ids: neither tells anything about class,
    part or source. Global random state is neither read nor changed.

    Args:
        pool: where the rows come from.
        clients: number of clients.
        partition: how training rows are dealt; see `splitguard.data.partition`.
        train: rows of all clients together; None, here and below: see `sizes`.
        test: rows that measure utility.
        aux: rows of the attacker; 0: none.
        aux_classes: the classes the attacker has rows of, by number; None: all.
        victims: ``{"member": ..., "query": ...}``, each optional.
        coarse: for each class of the pool the coarse label to train on, 0..L-1; the class becomes the row's attribute.
            Which row goes where, and to which client, depends on the pool's classes as before.
        seed: of the draw.

    Returns:
        The parts. ``digest`` covers ids, labels and pixels of every part, the members and each client's rows.

    Raises:
        BadSetting: for a request that does not fit, with the numbers.
        UnknownName: for a partition, one of its settings, or a key of ``victims``.
    """
    want = sizes(pool, train=train, test=test, aux=aux, victims=victims)
    how = PARTITIONS.build(partition)
    if coarse is not None:
        check_coarse(coarse, pool)
    number = len(pool)
    order = numpy_generator(seed, "data", "order").permutation(number)
    order = order[pool.distinct[order]]
    classes = pool.labels.numpy()[order]
    stacks = [order[classes == k] for k in range(pool.classes)]
    room = np.array([len(stack) for stack in stacks])
    shares = room / room.sum()
    exposed = (
        np.ones(pool.classes, bool) if pool.victim_class is None else _mask([pool.victim_class], pool, "victim_class")
    )
    known = np.ones(pool.classes, bool) if aux_classes is None else _mask(aux_classes, pool, "aux_classes")
    own = want.test if pool.test_labels is None else 0

    def quota(part: str, size: int, shares: Floats, room: Ints) -> Ints:
        left = int(room[shares > 0].sum())
        if size > left:
            which = ", ".join(pool.class_names[k] for k in np.flatnonzero(shares > 0)[:10])
            raise BadSetting(f"data {pool.name!r}: {part} {size}; {left} rows of its classes ({which}) are left"
                             f"{copies(pool)}. Lower {part}, or what takes rows before it")  # fmt: skip
        return quotas(size, shares, room, numpy_generator(seed, "data", "lots", part))

    query_counts = quota("query", want.query, shares * exposed, room)
    room = room - query_counts
    if pool.victim_class is not None:
        together = want.train + own + (want.aux if known.all() else 0)
        shares = _fill(together, shares, room.astype(float)) / together
    test_counts = quota("test", own, shares, room)
    train_counts = quota("train", want.train, shares, room - test_counts)
    aux_counts = quota("aux", want.aux, shares * known, room - test_counts - train_counts)
    member_counts = quota("victims: member", want.member, shares * exposed, train_counts)

    taken: dict[str, list[Ints]] = {"train": [], "test": [], "aux": [], "query": [], "members": []}
    for k, stack in enumerate(stacks):  # train from the top, the others from the bottom, so that each can grow
        taken["train"].append(stack[: train_counts[k]])
        taken["members"].append(stack[: member_counts[k]])
        ends = np.cumsum([test_counts[k], query_counts[k], aux_counts[k]])
        for part, piece in zip(("test", "query", "aux"), np.split(stack[::-1], ends), strict=False):
            taken[part].append(piece)
    rows = {part: np.concatenate(pieces) for part, pieces in taken.items()}
    if pool.test_labels is not None:
        rows["test"] = number + _official(pool, want.test, seed)
    ids = numpy_generator(seed, "data", "ids").permutation(len(pool.fingerprints))
    rows = {part: found[np.argsort(ids[found])] for part, found in rows.items()}
    members = np.flatnonzero(np.isin(rows["train"], rows.pop("members")))
    parts = {part: _rows(pool, found, ids) for part, found in rows.items()}
    held = parts["train"]
    dealt = deal(held.labels, partition, whole(clients, "clients", 1), seed, torch.from_numpy(members))
    member_ids, client_ids = held.ids[torch.from_numpy(members)], tuple(held.ids[positions] for positions in dealt)
    data = Data(
        pool.name,
        pool.classes,
        train=parts["train"],
        test=parts["test"],
        aux=parts["aux"],
        query=parts["query"],
        members=member_ids,
        clients=client_ids,
        class_names=pool.class_names,
        victim_class=pool.victim_class,
        partition=str(how),
        digest=_digest(pool, rows, parts, (member_ids, *client_ids)),
    )
    return data if coarse is None else made_coarse(data, coarse)


def quotas(size: int, shares: Floats, room: Ints, gen: np.random.Generator) -> Ints:
    """Whole numbers that sum to ``size``, as near to ``size * shares`` as ``room`` allows.

    Largest remainders (Hamilton's method), ties by lot. A class without room hands its part to the others.

    Args:
        size: at most the room of the classes whose share is above 0.
        shares: (K,), non-negative, of any positive sum.
        room: (K,), upper ends.
        gen: for the lots.
    """
    exact = _fill(size, shares, room.astype(float))
    counts = np.floor(exact + 1e-9).astype(np.int64)
    last = np.lexsort((gen.random(len(shares)), -np.round(exact - counts, 9)))
    counts[last[: size - int(counts.sum())]] += 1
    return counts


def _fill(size: float, shares: Floats, room: Floats) -> Floats:
    """(K,), ``size`` poured out in proportion to ``shares``, no class above its ``room``."""
    out, free, left = np.zeros(len(shares)), (shares > 0) & (room > 0), float(size)
    while left > 0 and free.any():
        even = left * shares / shares[free].sum()
        full = free & (even >= room)
        if not full.any():
            out[free] = even[free]
            break
        out[full] = room[full]
        left, free = left - room[full].sum(), free & ~full
    return out


def _mask(classes: Sequence[int], pool: Pool, name: str) -> NDArray[np.bool_]:
    """(K,), True for the classes named."""
    out = np.zeros(pool.classes, bool)
    for label in classes:
        if whole(label, name, 0) >= pool.classes:
            raise BadSetting(f"{name} must lie in 0..{pool.classes - 1}; got {label}")
        out[label] = True
    return out


def _official(pool: Pool, size: int, seed: int) -> Ints:
    """Stratified positions among the official test rows."""
    assert pool.test_labels is not None
    order = numpy_generator(seed, "data", "official").permutation(len(pool.test_labels))
    order = order[pool.distinct[len(pool) + order]]
    labels = pool.test_labels.numpy()[order]
    room = np.bincount(labels, minlength=pool.classes)
    counts = quotas(size, room / room.sum(), room, numpy_generator(seed, "data", "lots", "official"))
    return np.concatenate([order[labels == k][: counts[k]] for k in range(pool.classes)])


def _rows(pool: Pool, rows: Ints, ids: Ints) -> Rows:
    """Rows of the pool by number; those from ``len(pool)`` on are official test rows."""
    inputs, labels, offset = pool.inputs, pool.labels, 0
    if len(rows) > 0 and rows[0] >= len(pool) and pool.test_inputs is not None and pool.test_labels is not None:
        inputs, labels, offset = pool.test_inputs, pool.test_labels, len(pool)
    at = torch.from_numpy(rows - offset)
    return Rows(as_float(inputs[at]), labels[at], torch.from_numpy(ids[rows]))


def _digest(pool: Pool, rows: Mapping[str, Ints], parts: Mapping[str, Rows], dealt: Sequence[Tensor]) -> str:
    """16 hex digits of the SHA-256 over shape, ids, labels and fingerprints of each part, and over who holds what."""
    sha = hashlib.sha256(f"splitguard data 1: {pool.classes} classes, {tuple(pool.inputs.shape[1:])}".encode())
    for part, found in parts.items():
        sha.update(f"{part} {len(found)}".encode())
        for column in (found.ids, found.labels):
            sha.update(column.numpy().astype("<i8").tobytes())
        sha.update(pool.fingerprints[rows[part]].tobytes())
    for ids in dealt:
        sha.update(f"held {len(ids)}".encode() + ids.numpy().astype("<i8").tobytes())
    return sha.hexdigest()[:16]
