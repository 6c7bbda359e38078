# SPDX-License-Identifier: Apache-2.0
"""How many rows each part of a deployment has: what was asked for, and defaults by the size of the pool."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from splitguard.data.pool import Pool
from splitguard.errors import BadSetting, UnknownName, near_miss

__all__ = ["Sizes", "copies", "sizes", "whole"]


def whole(value: object, name: str, least: int) -> int:
    """``value`` as an integer of at least ``least``; anything else, booleans too, is refused by the setting's name."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise BadSetting(f"{name} must be a whole number of {least} or more; got {value!r}")
    return int(value)


@dataclass(frozen=True)
class Sizes:
    """How many rows each part has; the ``member`` rows are among ``train``, all other parts are disjoint."""

    train: int
    test: int
    aux: int
    member: int
    query: int


def sizes(
    pool: Pool,
    *,
    train: int | None = None,
    test: int | None = None,
    aux: int | None = None,
    victims: Mapping[str, int] | None = None,
) -> Sizes:
    """The sizes of all parts, with a default for each that is None.

    With N training rows and M official test rows in the pool, exact copies not counted, the defaults are

        member, query   min(64, N // 12), each
        aux             min(2000, N // 5)
        test            min(2000, M), or min(2000, N // 5) where the pool has no official test rows
        train           min(20000, what is left); the default of members is then at most half of it

    Where one class, a share s of the pool, gives all victims, a query row takes 1 / s rows from what is left, so that
    the classes stay balanced: for `faces`, 200 rows, train 88, test 40, aux 40, query 16, members 16.

    Raises:
        UnknownName: for a key of ``victims``, with near misses.
        BadSetting: if the pool has too few rows, with the numbers.
    """
    given = dict(victims or {})
    for key in given:
        if key not in ("member", "query"):
            raise UnknownName(near_miss(key, ("member", "query"), what="kind of victims"))
    has = int(pool.distinct[: len(pool)].sum())
    official = None if pool.test_labels is None else int(pool.distinct[len(pool) :].sum())
    query = whole(given.get("query", min(64, has // 12)), "victims: query", 0)
    member = whole(given.get("member", min(64, has // 12)), "victims: member", 0)
    test = whole(min(2000, has // 5 if official is None else official) if test is None else test, "test", 1)
    aux = whole(min(2000, has // 5) if aux is None else aux, "aux", 0)
    own = test if official is None else 0  # test rows taken from the training rows
    if train is None:
        uses = query  # rows that the query takes from the balance of the classes
        if pool.victim_class is not None:
            uses = math.ceil(query * len(pool) / max(int((pool.labels == pool.victim_class).sum()), 1))
        train = max(min(20_000, has - own - aux - uses), member, 1)
    train = whole(train, "train", 1)
    if "member" not in given:
        member = min(member, train // 2)
    if member > train:
        raise BadSetting(f"victims: member {member} do not fit into train {train}: they are training rows")
    if train + own + aux + query > has:
        asked = f"train {train} + {f'test {own} + ' if own else ''}aux {aux} + query {query}"
        raise BadSetting(
            f"data {pool.name!r}: {asked} = {train + own + aux + query} rows; there are {has} training rows"
            f"{copies(pool)}. Lower one of them"
        )
    if official is not None and test > official:
        raise BadSetting(f"data {pool.name!r}: test {test}; there are {official} official test rows{copies(pool)}")
    return Sizes(train, test, aux, member, query)


def copies(pool: Pool) -> str:
    """For messages: how many rows are never drawn, if any."""
    copies = int((~pool.distinct).sum())
    return f" ({copies} exact copies of other images left out)" if copies else ""
