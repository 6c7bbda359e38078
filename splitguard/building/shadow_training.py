# SPDX-License-Identifier: Apache-2.0
"""Trains a shadow of the client's head below the server's own layers, without asking the client anything."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from splitguard.building.moments import Moments
from splitguard.building.shadow import latest, live
from splitguard.building.simulate import as_released, as_stated, as_trained
from splitguard.data.rows import Rows
from splitguard.engine.view import View

__all__ = ["ShadowTraining"]

#: Share of the steps after which the best of several shadows is chosen.
EARLY = 0.25


@dataclass(frozen=True, kw_only=True)
class ShadowTraining:
    """Trains a head s, and a linear tail where the client keeps the last layers, to the least loss.

        CE(g(d(s(x))), y) + moments M(d(s(x')), z) + what the defense adds to a client's loss

    with g the server's layers, d the defense drawn afresh, z what was sent of the victims, and M the gap of `Moments`,
    in which d is the mean of as many draws as z is of releases. The rows (x, y) are auxiliary, y what the defense
    states of them; x' have labels as frequent as the victims' are, where this adversary is told those, and are the same
    rows otherwise.

    Attributes:
        steps: of Adam.
        lr: its first step size, falling to 0 along a half cosine.
        batch_size: rows a step.
        moments: weight of M.
        tries: shadows that are trained for a quarter of the steps; the one with the least loss goes on.
        reach: places up to which M compares covariances.
    """

    steps: int
    lr: float
    batch_size: int
    moments: float
    tries: int
    reach: int = 0

    @property
    def spent(self) -> int:
        """Optimizer steps of one call."""
        return self.steps + (self.tries - 1) * self._early

    def __call__(self, view: View, rows: Rows, generator: torch.Generator) -> nn.Module:
        """A shadow from fresh weights, in eval mode."""
        sent, times = latest(view)
        wanted = Moments.of(sent.to(rows.inputs), self.reach)
        if len(view.cut_shapes) == 1:  # a tail of its own learns the truth
            rows = replace(rows, labels=as_stated(view, rows.labels, generator))
        alike = _as_frequent(view, rows)
        tried = [_Shadow(view, self.lr, generator) for _ in range(self.tries)]
        reached = [self._until(self._early, shadow, view, rows, wanted, times, alike, generator) for shadow in tried]
        best = tried[min(range(self.tries), key=reached.__getitem__)]
        self._until(self.steps, best, view, rows, wanted, times, alike, generator)
        return best.head.eval()

    @property
    def _early(self) -> int:
        return int(EARLY * self.steps) if self.tries > 1 else 0

    def _until(
        self,
        until: int,
        shadow: _Shadow,
        view: View,
        rows: Rows,
        wanted: Moments,
        times: int,
        alike: Tensor | None,
        generator: torch.Generator,
    ) -> float:
        """Goes on to the step ``until``; the mean loss over the second half of what was taken."""
        path = []
        for step in range(shadow.taken, until):
            for group in shadow.optimizer.param_groups:
                group["lr"] = self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2
            loss = self._loss(shadow, view, rows, wanted, times, alike, generator)
            shadow.optimizer.zero_grad()
            torch.autograd.backward(loss)
            shadow.optimizer.step()
            path.append(float(loss.detach()))
        shadow.taken = until
        late = path[len(path) // 2 :]
        return sum(late) / max(len(late), 1)

    def _loss(
        self,
        shadow: _Shadow,
        view: View,
        rows: Rows,
        wanted: Moments,
        times: int,
        alike: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:
        batch = rows[torch.randint(len(rows), (self.batch_size,), generator=generator)]
        made = live(shadow.head, batch.inputs, generator)
        released = as_released(view, made, generator)
        loss = cross_entropy(shadow.logits(released), batch.labels)
        loss = loss + as_trained(view, batch.inputs, batch.labels, made, generator)
        if not self.moments:
            return loss
        if alike is not None:
            chosen = torch.multinomial(alike, self.batch_size, replacement=True, generator=generator)
            made = live(shadow.head, rows.inputs[chosen], generator)
            released = as_released(view, made, generator)
        for _ in range(times - 1):  # what was sent is the mean of so many releases, and has less noise than one
            released = released + as_released(view, made, generator)
        return loss + self.moments * wanted.gap(released / times)


class _Shadow:
    """A head with fresh weights, a linear tail where the client keeps the last layers, and their optimizer."""

    def __init__(self, view: View, lr: float, generator: torch.Generator) -> None:
        self.head, self.body, self.taken = view.blank_head(generator), view.body(), 0
        self.tail: Tensor | None = None
        if len(view.cut_shapes) == 2:
            width = math.prod(view.cut_shapes[1])
            like = next(self.head.parameters(), view.releases.smashed)
            self.tail = torch.randn(view.classes, width, generator=generator).to(like) / width**0.5
            self.tail.requires_grad_(True)
        tail = [] if self.tail is None else [self.tail]
        self.optimizer = torch.optim.Adam([*self.head.parameters(), *tail], lr=lr)

    def logits(self, released: Tensor) -> Tensor:
        """(N, K)."""
        out: Tensor = self.body(released.clone())  # whose first layer may write in place
        return out if self.tail is None else out.flatten(1) @ self.tail.T


def _as_frequent(view: View, rows: Rows) -> Tensor | None:
    """(M,): how often to draw each row, so that labels are as frequent as among the victims; None if nobody tells."""
    labels = view.releases.last(view.ids).labels
    if labels is None:
        return None
    wanted = torch.bincount(labels, minlength=view.classes).double()
    held = torch.bincount(rows.labels, minlength=view.classes).double()
    weights: Tensor = (wanted / held.clamp(min=1))[rows.labels].cpu()  # where the generator draws
    return weights if float(weights.sum()) > 0 else None
