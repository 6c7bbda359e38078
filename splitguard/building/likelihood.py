# SPDX-License-Identifier: Apache-2.0
"""How well an input explains everything that was sent of it, over all releases whose head is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splitguard.building.heads import Heads, spread
from splitguard.engine.view import View
from splitguard.engine.wire import Releases
from splitguard.errors import MissingKnowledge
from splitguard.seeding import generator

__all__ = ["SAMPLE", "JointLikelihood", "laplace"]

#: Rows of auxiliary data from which variances are estimated.
SAMPLE = 128
#: A coordinate counts with at least this share of the mean variance, so that dead units do not dominate.
LEAST = 0.01
#: -2 log likelihood of Laplace noise a standard deviation off, and how far its point is rounded off, in these.
LAPLACE, ROUND = 2 * math.sqrt(2), 0.1


@dataclass(frozen=True)
class JointLikelihood:
    """The misfit of inputs to what was sent of each of N victims.

        misfit_n(x) = sum over t and d of  r(f_t(x), z_t)_d^2 / v_d,     v = noise + slack signal

    with f_t the head that made release t and r the defense's residual: ``m(f_t(x)) - z_t`` with m the part without its
    noise, or, for masks and permutations, only what z_t tells. That is -2 log likelihood up
    to a constant where the noise is Gaussian. ``noise`` is its variance, known or estimated from fresh draws, and
    ``signal`` the variance of the activation over auxiliary rows: without noise, ``slack`` is the relative error
    allowed. Releases of one victim by one head are averaged beforehand, so that T releases of a frozen head cost what
    one does; with Gaussian noise that loses nothing. Releases that only repeat one another count once.

    Laplace noise is taken for Gaussian, or, if ``exact``, for what it is: ``2 sqrt(2) |r| / sqrt(v)`` in place of
    ``r^2 / v``, rounded off at the bottom for `misfit`, so that it has a slope everywhere, and releases are averaged
    only where there are more than may be looked at one by one. Among candidates that is the better judge; where inputs
    are searched for it may be either, as the likeliest input is not the one with the least expected error.

    An attacker that is not adaptive takes the last release alone, as if there were no defense.

    Attributes:
        view: whose defense it is.
        heads: the client's heads.
        owner: (E,) int64, which victim, 0..N-1.
        head: (E,) int64, the snapshot that made it; -1 stands for the deployed head.
        count: (E,), releases averaged.
        smashed: (E, *cut), their mean.
        noise, signal: (*cut) or broadcast to it, in squared units of the smashed data.
        victims: N.
        exact: whether Laplace noise is taken for what it is.
    """

    view: View
    heads: Heads
    owner: Tensor
    head: Tensor
    count: Tensor
    smashed: Tensor
    noise: Tensor
    signal: Tensor
    victims: int
    exact: bool

    @classmethod
    def of(cls, view: View, *, releases: int, exact: bool = False) -> JointLikelihood:
        """What ``view`` holds of its victims.

        Args:
            view: must grant smashed data, the head, and auxiliary rows.
            releases: at most so many heads a victim, spread evenly over time, the last one among them. A release whose
                head was not kept is left out; a victim without any other is matched by its last, with the deployed
                head.
            exact: without effect where the noise is not Laplace.

        Raises:
            MissingKnowledge: by name, or if a victim was never sent, or for fewer than two auxiliary rows.
        """
        rows, like = view.releases, view.aux.inputs
        if len(like) < 2:
            raise MissingKnowledge(f"variances are taken over 2 auxiliary rows or more; this adversary has {len(like)}")
        exact = exact and laplace(view)
        found = [_of_victim(rows, i, releases, view, apart=exact) for i in view.ids]
        owner = torch.tensor([n for n, own in enumerate(found) for _ in own])
        head = torch.tensor([e[0] for own in found for e in own])
        count = torch.tensor([e[1] for own in found for e in own], dtype=like.dtype, device=like.device)
        smashed = torch.stack([e[2] for own in found for e in own]).to(like)
        heads = Heads(view)
        noise, signal = _variances(view, heads.through(int(head.max()), spread(like, SAMPLE)))
        return cls(view, heads, owner, head, count, smashed, noise, signal, len(found), exact)

    def misfit(self, slack: float | Tensor) -> Callable[[Tensor], Tensor]:
        """The function from inputs (N, *in) to misfits (N,), for one slack or one a victim (N,)."""
        forward, variance, owner = self.heads.all_at(self.head), self._variance(slack), self.owner.to(self.count.device)
        pointed = self._pointed().view(-1, *[1] * (self.smashed.ndim - 1))

        def function(inputs: Tensor) -> Tensor:
            made = forward(inputs[owner])
            apart = self.view.defense.residual(made, self.smashed) if self.view.adaptive else made - self.smashed
            wrong = apart.square() / variance
            if bool(pointed.any()):
                wrong = torch.where(pointed, LAPLACE * ((wrong + ROUND**2).sqrt() - ROUND), wrong)
            each = self.count * wrong.flatten(1).sum(1)
            return each.new_zeros(self.victims).index_add(0, owner, each)

        return function

    def over(self, candidates: Tensor, slack: float) -> Tensor:
        """(N, M): the misfit of every candidate (M, *in) to every victim; each goes through each head once."""
        out = self.count.new_zeros(self.victims, len(candidates))
        variance = self._variance(slack)
        root, partly, pointed = variance.sqrt(), _tells_in_part(self.view), self._pointed()
        with torch.no_grad():
            for head in torch.unique(self.head):
                mine = self.head == head
                made = self.heads.through(int(head), candidates)
                if partly:
                    for entry in torch.nonzero(mine).flatten():
                        wrong = self.view.defense.residual(made, self.smashed[entry].expand_as(made)).square()
                        out[self.owner[entry]] += (wrong / variance).flatten(1).sum(1)
                    continue
                made = self.view.defense.mean_release(made) if self.view.adaptive else made
                z, made = (self.smashed[mine] / root).flatten(1), (made / root).flatten(1)
                # Differences, not products: the gap between two candidates may be tiny beside either norm.
                wrong = torch.cdist(z, made, compute_mode="donot_use_mm_for_euclid_dist").square()
                if bool(pointed[mine].any()):
                    wrong = torch.where(pointed[mine, None], LAPLACE * torch.cdist(z, made, p=1), wrong)
                out.index_add_(0, self.owner[mine].to(out.device), self.count[mine, None] * wrong)
        return out

    def latest(self) -> Tensor:
        """(N, *cut): what came last of each victim, the mean of all releases by its last head."""
        return torch.stack([self.smashed[entries].mean(0) for entries in self._last()])

    def like_latest(self, inputs: Tensor, gen: torch.Generator) -> Tensor:
        """(K, *cut): inputs (K, *in) through the last head, each the mean of as many draws as `latest` is of."""
        made = self.heads.through(int(self.head.max()), inputs)
        count = torch.stack([self.count[entries].sum() for entries in self._last()]).median().expand(len(inputs))
        with torch.no_grad():
            return _mean_of_draws(self.view, made, count, gen) if self.view.adaptive else made

    def pretend(self, inputs: Tensor, gen: torch.Generator, *, by: View | None = None) -> JointLikelihood:
        """The same situation with victims whose inputs (K, *in) are known, K <= N: releases are drawn afresh.

        Pseudo-victim k is sent through the heads of victim k, as often, with the defense's noise drawn anew, by what
        the view ``by`` knows of the defense, this one by default; one that is not adaptive knows of none.
        """
        part, view = self.of_victims(torch.arange(len(inputs))), by or self.view
        with torch.no_grad():
            made = self.heads.all_at(part.head)(inputs[part.owner])
            sent = _mean_of_draws(view, made, part.count, gen) if view.adaptive else made
        return replace(part, smashed=sent)

    def of_victims(self, chosen: Tensor) -> JointLikelihood:
        """The victims at these positions (K,) only, in that order."""
        found = [torch.nonzero(self.owner == int(i)).flatten() for i in chosen]
        entries = torch.cat(found)
        owner = torch.arange(len(found)).repeat_interleave(torch.tensor([len(f) for f in found]))
        return replace(
            self,
            owner=owner,
            head=self.head[entries],
            count=self.count[entries],
            smashed=self.smashed[entries],
            victims=len(found),
        )

    def repeat(self, times: int) -> JointLikelihood:
        """Each victim ``times`` times over, as victims n, n + N, n + 2N, ...: to try several settings at once."""
        shift = self.victims * torch.arange(times).repeat_interleave(len(self.owner))
        return replace(
            self,
            owner=self.owner.repeat(times) + shift,
            head=self.head.repeat(times),
            count=self.count.repeat(times),
            smashed=self.smashed.repeat(times, *[1] * (self.smashed.ndim - 1)),
            victims=self.victims * times,
        )

    def _last(self) -> list[Tensor]:
        """N times (e,): the entries of each victim's last head; the last one alone where entries have no mean."""
        mine = [torch.nonzero(self.owner == n).flatten() for n in range(self.victims)]
        if _tells_in_part(self.view):
            return [own[-1:] for own in mine]
        return [own[self.head[own] == self.head[own[-1]]] for own in mine]

    def _pointed(self) -> Tensor:
        """(E,) bool: which entries are single releases under Laplace noise, whose likelihood has a point at its top."""
        return (self.count == 1) & self.exact

    def _variance(self, slack: float | Tensor) -> Tensor:
        if isinstance(slack, Tensor):
            slack = slack[self.owner].to(self.smashed).view(-1, *[1] * (self.smashed.ndim - 1))
        return self.noise + slack * self.signal


def _tells_in_part(view: View) -> bool:
    """Whether each release hides which of its coordinates count, so that releases cannot be averaged."""
    return view.adaptive and view.defense.overrides("residual")


def laplace(view: View) -> bool:
    """Whether the attacker knows that the noise is Laplace."""
    return view.adaptive and view.defense.noise_law == "laplace" and view.defense.noise_std() > 0


def _of_victim(rows: Releases, victim: Tensor, most: int, view: View, *, apart: bool) -> list[tuple[int, int, Tensor]]:
    """(snapshot, releases averaged, their mean) of one victim, in order of time."""
    mine = torch.nonzero(rows.ids == victim).flatten()
    if len(mine) == 0:
        raise MissingKnowledge(f"this view holds no release of the victim with id {int(victim)}")
    known = mine[rows.head[mine] >= 0]
    mine = known if len(known) and view.adaptive else mine[-1:]
    if _tells_in_part(view) or (apart and len(mine) <= most):
        return [(int(rows.head[i]), 1, rows.smashed[i]) for i in mine[_spread_back(len(mine), most)]]
    made_by = torch.unique(rows.head[mine])  # snapshots are numbered in order of time
    out = []
    for head in made_by[_spread_back(len(made_by), most)]:
        own = mine[rows.head[mine] == head]
        sent = rows.smashed[own]
        times = 1 if bool((sent == sent[:1]).all()) else len(own)
        out.append((int(head), times, sent.mean(0) if times > 1 else sent[0]))
    return out


def _spread_back(count: int, most: int) -> Tensor:
    """At most ``most`` positions among ``count``, spread evenly, ascending, the last one among them."""
    return torch.linspace(count - 1, 0, min(most, count)).round().long().flip(0)


def _mean_of_draws(view: View, made: Tensor, count: Tensor, gen: torch.Generator) -> Tensor:
    """Each row's release drawn as often as ``count`` says, and averaged."""
    total, most = torch.zeros_like(made), int(count.max())
    for draw in range(most):
        fresh = view.defense.released_like(made, gen)
        total = total + torch.where((count > draw).view(-1, *[1] * (made.ndim - 1)), fresh, 0)
    return total / count.view(-1, *[1] * (made.ndim - 1))


def _variances(view: View, made: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and signal variance over rows of what the head makes: one a channel of images, else one a unit."""
    with torch.no_grad():
        means = view.defense.mean_release(made) if view.adaptive else made
        over = (0, 2, 3) if made.ndim == 4 else (0,)
        signal = (means - means.mean(0)).square().mean(over, keepdim=True)[0]
        signal = signal + (LEAST * signal.mean() if float(signal.mean()) > 1e-30 else 1)  # dead: all inputs fit alike
        noise = torch.zeros_like(signal)
        if view.adaptive and view.defense.noise_std() > 0:
            noise = torch.full_like(signal, view.defense.noise_std() ** 2)
        elif view.adaptive:
            draws = view.defense.released_like(made, generator(0, "noise variance"))
            noise = view.defense.residual(made, draws).square().mean(over, keepdim=True)[0]
    return noise, signal
