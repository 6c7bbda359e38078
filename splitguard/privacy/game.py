# SPDX-License-Identifier: Apache-2.0
"""The game behind an empirical epsilon: the whole view of one batch in which one row differs, played many times.

An adversary who may choose everything but the noise puts one of two rows into a batch and watches all its T releases,
other rows' included. Worlds and statistics are fixed in advance, so that no choice among them is made on what is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitguard.errors import BadSetting

__all__ = ["STATISTICS", "WORLDS", "Opening", "Played", "Send", "play", "played"]

Send = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]
"""A mechanism: smashed (B, *cut), ids (B,), the release counted from 0, a generator; to what leaves the client."""

#: How far outside the clip the differing row lies, and how far inside it the other rows lie, in units of C.
FAR, NEAR = 100.0, 0.5
WORLDS = ("one axis", "flat direction", "zero or far")
STATISTICS = ("alternating matched filter", "own minus others", "others' signed sum", "energy", "plain sum")


@dataclass(frozen=True)
class Played:
    """One world: the statistics of every trial on both sides.

    Attributes:
        world: one of `WORLDS`.
        left, right: (trials, S) float64, a column for each of the game's S statistics; the row differs between left
            and right.
    """

    world: str
    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class Opening:
    """What one world puts into a batch.

    Attributes:
        direction: v, a unit vector of the row's shape.
        signs: s_t of the row that differs, one a release.
        sides: that row, before its sign, on the left and on the right; of the row's shape.
        others: (B, *shape), the other rows; what stands in place 0 does not count.
    """

    direction: Tensor
    signs: tuple[float, ...]
    sides: tuple[Tensor, Tensor]
    others: Tensor


def _opening(world: str, *, shape: tuple[int, ...], clip: float, batch: int, releases: int) -> Opening:
    """The rows of one of `WORLDS`, as `play` describes them."""
    direction = _direction(world, shape)
    far, zero = FAR * clip * direction, world == WORLDS[2]
    return Opening(
        direction=direction,
        signs=tuple(1.0 if zero else (-1.0) ** t for t in range(releases)),
        sides=(far, torch.zeros(shape) if zero else -far),
        others=(NEAR * clip * direction).expand(batch, *shape),
    )


def _needs(*, batch: int, releases: int, trials: int, clip: float) -> None:
    """Refuses a game that cannot be played.

    Raises:
        BadSetting: naming all four.
    """
    if batch < 2 or releases < 1 or trials < 8 or not clip > 0:
        raise BadSetting(
            "the game needs a batch of 2 rows or more, 1 release or more, 8 trials or more and a positive clip; got "
            f"batch={batch}, releases={releases}, trials={trials}, clip={clip}"
        )


def play(
    send: Send,
    *,
    shape: tuple[int, ...],
    clip: float,
    batch: int,
    releases: int,
    trials: int,
    worlds: Sequence[str] = WORLDS,
    generator: torch.Generator,
) -> Iterator[Played]:
    """Plays each world ``trials`` times on both sides.

    In batches of B rows, row 0 differs; the others are C/2 v each, v a unit vector of the world:

    * one axis: row 0 is 100 C v or -100 C v, its sign alternating over releases, v a coordinate axis;
    * flat direction: the same with all coordinates of v alike;
    * zero or far: row 0 is 0 or 100 C v at every release.

    With s_t the world's sign at release t (1 everywhere in the last world), a_t = (-1)^t, o_tj what was sent of row j,
    the statistics are sum_t a_t <o_t0, v>; sum_t s_t <o_t0 - mean_j o_tj, v>; sum_t s_t sum_j <o_tj, v>;
    sum_t |o_t0|^2; sum_t <o_t0, v>, with j over the other rows.

    Args:
        send: the mechanism; every trial has row ids of its own, so that what it keeps a row is fresh.
        shape: of one row's smashed data.
        clip: C, the bound that the mechanism claims for a row.
        batch: B, at least 2, as deployed.
        releases: T of a row.
        trials: of each side.
        worlds: some of `WORLDS`, each by its name.
        generator: the mechanism draws from it.

    Raises:
        BadSetting: for a batch of one row, or a mechanism that hands back another number of rows.
    """

    def see(rows: Tensor, direction: Tensor, ids: Tensor, number: int) -> Tensor:
        return _sent(send, rows, direction, ids, number, generator)

    return played(
        see, _statistics, shape=shape, clip=clip, batch=batch, releases=releases, trials=trials, worlds=worlds
    )


def played(
    see: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    statistics: Callable[[Tensor, Tensor], Tensor],
    *,
    shape: tuple[int, ...],
    clip: float,
    batch: int,
    releases: int,
    trials: int,
    worlds: Sequence[str],
) -> Iterator[Played]:
    """Both sides of each world, ``trials`` times, whatever the mechanism and the statistics.

    Args:
        see: of rows (B, *shape) with ids (B,), along a direction (*shape), at a release: S numbers (S,).
        statistics: of what was seen (trials, T, S), and the row's signs (T,), to (trials, statistics).
        shape: of one row.
        clip: C.
        batch: B, at least 2.
        releases: T.
        trials: of each side.
        worlds: some of `WORLDS`.

    Raises:
        BadSetting: for a game that cannot be played.
    """
    _needs(batch=batch, releases=releases, trials=trials, clip=clip)
    first = 0
    for world in worlds:
        told = _opening(world, shape=shape, clip=clip, batch=batch, releases=releases)
        sides = []
        for far in told.sides:
            rows, seen = told.others.clone(), []
            for _ in range(trials):
                ids = torch.arange(first, first + batch)
                first += batch
                for number, sign in enumerate(told.signs):
                    rows[0] = sign * far
                    seen.append(see(rows.clone(), told.direction, ids, number))
            signs = torch.tensor(told.signs, dtype=torch.float64)
            sides.append(statistics(torch.stack(seen).view(trials, releases, -1), signs))
        yield Played(world, *sides)


def _direction(world: str, shape: tuple[int, ...]) -> Tensor:
    """A unit vector of ``shape``."""
    flat = torch.ones(shape)
    if world == WORLDS[1]:
        unit: Tensor = flat / flat.norm()
        return unit
    axis = torch.zeros(flat.numel())
    axis[0] = 1
    return axis.view(shape)


def _sent(
    send: Send, inputs: Tensor, direction: Tensor, ids: Tensor, number: int, generator: torch.Generator
) -> Tensor:
    """(B + 1,): what was sent of each row along the direction, and the energy of row 0."""
    with torch.no_grad():
        out = send(inputs, ids, number, generator)
    if len(out) != len(inputs):
        raise BadSetting(f"the mechanism was given {len(inputs)} rows and sent {len(out)}; it must keep every row")
    if out[0].numel() != direction.numel():
        raise BadSetting(
            f"the mechanism turns {direction.numel()} coordinates of a row into {out[0].numel()}; the game is played "
            "on mechanisms that keep the shape"
        )
    flat = out.reshape(len(out), -1).double()
    return torch.cat([flat @ direction.flatten().double(), flat[0].dot(flat[0])[None]])


def _statistics(told: Tensor, signs: Tensor) -> Tensor:
    """(trials, 5) of what `_sent` told, (trials, T, B + 1)."""
    own, others, energy = told[..., 0], told[..., 1:-1], told[..., -1]
    alternating: Tensor = (-1.0) ** torch.arange(told.shape[1], dtype=torch.float64)
    found = [alternating * own, signs * (own - others.mean(2)), signs * others.sum(2), energy, own]
    return torch.stack([each.sum(1) for each in found], dim=1)
