# SPDX-License-Identifier: Apache-2.0
"""Auxiliary rows from another data set: what the attacker has is like the clients' data, but was drawn elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitguard.data.coarse import check_coarse, made_coarse
from splitguard.data.pool import Pool, as_float
from splitguard.data.rows import Data, Rows
from splitguard.data.sizes import Sizes, sizes, whole
from splitguard.data.sources import source_settings
from splitguard.data.splits import draw
from splitguard.errors import BadSetting

__all__ = ["aux_source_settings", "check_elsewhere", "draw_elsewhere", "sizes_elsewhere"]


def aux_source_settings(source: str | Mapping[str, Any]) -> dict[str, Any]:
    """``{"name": ..., setting: value, ...}``, every setting of that data set filled in: one source, one written form.

    Args:
        source: ``"mnist"``, ``{name: npz, path: x.npz}`` or ``{npz: {path: x.npz}}``.

    Raises:
        UnknownName: for the data set or a setting, with near misses.
        BadSetting: for another form, or a value that does not fit.

    >>> aux_source_settings("faces")
    {'name': 'faces'}
    """
    given: Any = {"name": source} if isinstance(source, str) else source
    if isinstance(given, Mapping) and "name" not in given and len(given) == 1:
        ((name, inner),) = given.items()
        given = {**inner, "name": name} if isinstance(inner, Mapping) else {"name": name} if inner is None else given
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise BadSetting(f"'aux_source' is the name of a data set or {{name: ..., setting: value}}; got {source!r}")
    rest = {key: value for key, value in given.items() if key != "name"}
    return {"name": given["name"], **source_settings(given["name"], rest)}


def check_elsewhere(pool: Pool, other: Pool, coarse: Sequence[int] | None = None) -> None:
    """Refuses auxiliary rows that the network could not take, or whose labels have no meaning here.

    Raises:
        BadSetting: for inputs of another shape; for more classes than the deployment's data has; with ``coarse``,
            which gives a coarse label to each class, for another number of classes.
    """
    owner = f"setting 'aux_source' ({other.name}), for data {pool.name!r}"
    wanted, got = ("x".join(map(str, one.inputs.shape[1:])) for one in (pool, other))
    if wanted != got:
        raise BadSetting(f"{owner}: wanted inputs of shape {wanted}; got {got}. Convert them to an npz or a folder of "
                         "that shape and name it with `path`")  # fmt: skip
    if coarse is not None and other.classes != pool.classes:
        raise BadSetting(f"{owner}: coarse labels stand for classes, so it wants {pool.classes} of them; got "
                         f"{other.classes}. Take another source, or leave coarse out")  # fmt: skip
    if other.classes > pool.classes:
        raise BadSetting(f"{owner}: label k there stands for class k here, so it wants at most {pool.classes} classes; "
                         f"got {other.classes}. Merge or drop some in an npz")  # fmt: skip


def sizes_elsewhere(
    pool: Pool,
    other: Pool,
    *,
    train: int | None = None,
    test: int | None = None,
    aux: int | None = None,
    victims: Mapping[str, int] | None = None,
) -> Sizes:
    """The sizes of all parts where only the auxiliary rows come from ``other``; see `sizes`.

    The defaults of the deployment are those that it has with auxiliary rows of its own, so that both have the same
    training rows; ``aux`` is by default min(2000, N // 5) with N the training rows of ``other``.

    Raises:
        UnknownName: for a key of ``victims``, with near misses.
        BadSetting: if one of the two has too few rows, with the numbers.
    """
    own = sizes(pool, train=train, test=test, aux=None if train is None else 0, victims=victims)
    has = int(other.distinct[: len(other)].sum())
    return replace(own, aux=_enough(min(2000, has // 5) if aux is None else whole(aux, "aux", 0), other, has))


def draw_elsewhere(
    pool: Pool,
    other: Pool,
    *,
    aux: int | None = None,
    aux_classes: Sequence[int] | None = None,
    coarse: Sequence[int] | None = None,
    seed: int = 0,
    **deployment: Any,
) -> Data:
    """`draw`, but with auxiliary rows from ``other``; everything else is drawn from ``pool`` as if they did not exist.

    While no class of ``pool`` runs short, training rows, test rows, victims and clients are those that `draw` gives
    for the same sizes and seed. Auxiliary rows are stratified by the classes of ``other``, taken from its training
    rows, and never an exact copy of an image of ``pool``, whatever part that image is in. Their label k stands for
    class k here, whatever that class is called there. Their ids lie beyond all ids of ``pool``.

    Args:
        pool: where the deployment's rows come from.
        other: where the attacker's rows come from; inputs of the same shape, no more classes.
        aux: rows of the attacker; 0: none; None: see `sizes_elsewhere`.
        aux_classes: the classes of ``other`` that the attacker has rows of; None: all.
        coarse: as in `draw`; both then have equally many classes.
        seed: of the draw.
        **deployment: the other settings of `draw`; sizes that are None as in `sizes_elsewhere`.

    Returns:
        The parts. ``digest`` covers those of the deployment, and ids, labels and pixels of the auxiliary rows.

    Raises:
        BadSetting: for a request that does not fit, with the numbers.
        UnknownName: for a partition, one of its settings, or a key of ``victims``.
    """
    check_elsewhere(pool, other, coarse)
    if coarse is not None:
        check_coarse(coarse, pool)
    sized = {name: deployment.pop(name, None) for name in ("train", "test", "victims")}
    want = sizes_elsewhere(pool, other, aux=aux, **sized)
    victims = {"member": want.member, "query": want.query}
    own = draw(pool, train=want.train, test=want.test, aux=0, victims=victims, seed=seed, **deployment)
    rows = _auxiliary(pool, other, want.aux, aux_classes, seed) if want.aux else own.aux
    sha = hashlib.sha256(f"{own.digest}: auxiliary rows from elsewhere {len(rows)}".encode())
    for column in (rows.ids, rows.labels, rows.inputs):
        sha.update(column.numpy().tobytes())
    data = replace(own, aux=rows, digest=sha.hexdigest()[:16])
    return data if coarse is None else made_coarse(data, coarse)


def _auxiliary(pool: Pool, other: Pool, size: int, classes: Sequence[int] | None, seed: int) -> Rows:
    """Auxiliary rows of ``other``, as `draw` chooses them."""
    strange = torch.from_numpy(_strange(pool, other))
    _enough(size, other, int(strange.sum()), f", and {int((~strange).sum())} exact copies of images of {pool.name!r}")
    chosen = Pool(other.name, other.inputs[strange], other.labels[strange], class_names=other.class_names)
    victims = {"member": 0, "query": 0}
    # One row each goes to training and test, which `draw` insists on and nobody uses.
    rows = draw(chosen, train=1, test=1, aux=size, aux_classes=classes, victims=victims, seed=seed).aux
    return replace(rows, ids=rows.ids + len(pool.fingerprints))


def _enough(size: int, other: Pool, has: int, more: str = "") -> int:
    """``size``, if ``other`` can give so many of the ``has`` rows that are left of it."""
    if size > max(has - 2, 0):
        raise BadSetting(f"setting 'aux_source' ({other.name}): wanted aux {size}; it has {max(has - 2, 0)} rows to "
                         f"give{more}. Lower aux, or take another source")  # fmt: skip
    return size


def _strange(pool: Pool, other: Pool) -> NDArray[np.bool_]:
    """(N of ``other``,), False for an image that is also in ``pool``; other inputs may repeat (tables do)."""
    if other.inputs.ndim != 4:
        return np.ones(len(other), bool)
    if pool.inputs.dtype != other.inputs.dtype:  # 0..255 here and [0, 1] there: the same image has two forms
        pool, other = _in_floats(pool), _in_floats(other)
    known = set(pool.fingerprints.tolist())
    return np.array([mark not in known for mark in other.fingerprints[: len(other)].tolist()])


def _in_floats(pool: Pool) -> Pool:
    test: Tensor | None = None if pool.test_inputs is None else as_float(pool.test_inputs)
    return replace(pool, inputs=as_float(pool.inputs), test_inputs=test)
