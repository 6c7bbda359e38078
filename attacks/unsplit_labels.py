# SPDX-License-Identifier: Apache-2.0
"""Labels as those under which a copy of the client's last layers returns the gradient that it returned."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, Party, Releases, Sees, Threat, View
from splitguard.building.anchors import Anchored

#: Stands for the norm 0, which no direction can be taken of.
TINY = 1e-30
#: Weight of a difference in length: it decides between directions that are the same.
TIE = 1e-3


@ATTACKS.add("unsplit-labels")
@dataclass(kw_only=True)
class UnsplitLabels(Attack):
    """Fits a linear clone of the tail, which moves with time, and every label, to the gradients that came back.

        min_{W, b, y}  mean_n ||g_n - W(t_n)^T (p_n - e_{y_n})||^2 / mean_n ||g_n||^2,    p_n = softmax(W(t_n) h_n + b)

    with h_n the features that the server sent and g_n the per-sample gradient returned for them: what cross entropy
    returns through a linear tail. ``W(t)`` is a polynomial in the step, because the tail is trained meanwhile. Labels
    and clone are fitted in turn. All candidates of all rows are compared at once: with ``a_n = W^T p_n - g_n``, the
    label is that of the row of W next to a_n. The scores are minus these squared distances over ``||g_n||^2``.

    From g alone classes are identifiable only up to a permutation. So one row a class whose label is known names them,
    and starts the clone. A class without a known row is guessed for no victim. An attacker who knows the defense takes
    g_n as `Defense.restored` gives it.

    Args:
        rounds: of labels and clone in turn, at most, for each power of time; it stops when no label changes.
        steps: of L-BFGS on the clone in each round.
        drift: degree of the polynomial, raised one by one; 0 is a tail that stands still.

    Source: Erdogan, Kupcu, Cicek, UnSplit, WPES 2022. Differences: there the match is to the gradient of the tail's own
    weights, which a server never receives, and the label is read off it exactly; here to what crosses the wire.
    Known rows; all rows at once, where there one after another; a tail of one linear layer.
    """

    rounds: int = 10
    steps: int = 20
    drift: int = 1

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(
        Sees.SMASHED | Sees.FEATURES | Sees.LABEL_GRAD | Sees.KNOWN, (Party.SERVER,), uses=Sees.NOTHING
    )
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Erdogan, Kupcu, Cicek, UnSplit, WPES 2022"

    def __post_init__(self) -> None:
        for name, least in (("rounds", 0), ("steps", 1), ("drift", 0)):
            if getattr(self, name) < least:
                raise BadSetting(f"unsplit-labels: {name} must be at least {least}; got {getattr(self, name)!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K)."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        found = Anchored.of(view)
        rows = _Rows.of(view, found, self.drift)
        missing = found.mean_of_class(found.labels.double()).isnan()
        clone = _Clone(rows, found, self.drift)
        told = len(found.labels)
        labels = torch.cat([found.labels, clone.distances(rows, missing)[told:].argmin(1)])
        spent, rested = 0, self.rounds == 0
        # A tail that stands still first: all the freedom at once would follow wrong labels.
        for degree in range(self.drift + 1):
            for _ in range(self.rounds):
                spent += clone.fit(rows, labels, degree, self.steps)
                before, labels = labels, torch.cat([found.labels, clone.distances(rows, missing)[told:].argmin(1)])
                rested = torch.equal(before, labels)
                if rested:
                    break
        lengths = rows.gradients[told:].square().sum(1, keepdim=True).clamp(min=TINY)
        return Guess(
            ids=view.ids,
            labels=labels[told:],
            scores=-clone.distances(rows, missing)[told:] / lengths,
            budget=Budget(steps=spent, seconds=time.perf_counter() - began),
            converged=rested,
        )


class _Rows(NamedTuple):
    """Features (R, D), per-sample gradients (R, D) and powers of time (R, 1 + drift), in float64."""

    features: Tensor
    gradients: Tensor
    time: Tensor

    @classmethod
    def of(cls, view: View, found: Anchored, drift: int) -> _Rows:
        """Of the known rows, then the victims, each as it was sent last."""
        rows = view.context.last(torch.cat([view.known.ids, view.ids]))
        when = rows.step.double()
        when = 2 * (when - when.min()) / (when.max() - when.min()).clamp(min=1) - 1
        features = _features(rows).double()
        powers = torch.stack([when**k for k in range(drift + 1)], 1).to(features)
        return cls(features, torch.cat([found.known, found.victims]), powers)


class _Clone:
    """A linear tail, its weights (1 + drift, K, D) and biases (1 + drift, K) polynomials in time."""

    def __init__(self, rows: _Rows, found: Anchored, drift: int) -> None:
        # While predictions are even, g = mean W - W_y: the known gradients are the rows of W, up to their mean.
        first = -found.mean_of_class(found.known).nan_to_num(0)
        self.weight = first.new_zeros(drift + 1, *first.shape)
        self.weight[0] = first - first.mean(0)
        self.bias = first.new_zeros(drift + 1, len(first))

    def distances(self, rows: _Rows, missing: Tensor | None = None) -> Tensor:
        """(R, K): squared distance of each row's gradient to the clone's for each label; infinite for missing ones."""
        out = self._distances(rows, self.weight, self.bias)
        if missing is not None and bool(missing.any()):
            out = torch.where(missing, 2 * out.max() + 1, out)
        return out

    def fit(self, rows: _Rows, labels: Tensor, degree: int, steps: int) -> int:
        """Moves the clone, up to this power of time, to the gradients under these labels; evaluations taken."""
        weight, bias = (part[: degree + 1].clone().requires_grad_(True) for part in (self.weight, self.bias))
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")
        size, taken = rows.gradients.square().sum(1).mean().clamp(min=TINY), 0

        def closure() -> Tensor:
            nonlocal taken
            taken += 1
            optimizer.zero_grad()
            loss = self._distances(rows, weight, bias).gather(1, labels[:, None]).mean() / size
            torch.autograd.backward(loss)
            return loss

        optimizer.step(closure)
        # At a perfect fit the line search divides 0 by 0, and there is nothing to gain.
        if bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            self.weight[: degree + 1], self.bias[: degree + 1] = weight.detach(), bias.detach()
        return taken

    @staticmethod
    def _distances(rows: _Rows, weight: Tensor, bias: Tensor) -> Tensor:
        powers = rows.time[:, : len(weight)]  # a clone that stands still has the first only

        def at_its_time(of_power: Callable[[int], Tensor]) -> Tensor:
            # Each power has its own product, so that no weights (R, K, D) of every row are made.
            return torch.stack([powers[:, k, None] * of_power(k) for k in range(len(weight))]).sum(0)

        chances = torch.softmax(at_its_time(lambda k: rows.features @ weight[k].T + bias[k]), 1)
        apart = at_its_time(lambda k: chances @ weight[k]) - rows.gradients
        # ||a - W_y||^2 = ||a||^2 - 2 a W_y + ||W_y||^2, W_y a polynomial in time.
        along = at_its_time(lambda k: apart @ weight[k].T)
        norms = torch.einsum("rj,rk,jkc->rc", powers, powers, torch.einsum("jcd,kcd->jkc", weight, weight))
        return apart.square().sum(1, keepdim=True) - 2 * along + norms


@ATTACKS.add("unsplit-labels-tail")
@dataclass(kw_only=True)
class UnsplitLabelsTail(Attack):
    """The label under which the client's own tail, which leaked, returns the gradient most like the one it returned.

        score(n, k) = cos(g_n, g_nk) - 0.001 ||g_n - g_nk|| / (||g_n|| + ||g_nk||),    g_nk = dCE(h(f_n), k) / df

    with h the tail as deployed, f_n the features that were sent and g_n the gradient that came back for them.
    This is what the published 100 % rest on: there the server holds the tail's first weights or their gradients, and a
    tail as deployed is nearly as good. Directions count before lengths, because the tail has learned since, and what it
    has learned makes gradients shorter; lengths decide where all directions are the same, behind one hidden unit that
    is not dead. No row's label need be known. It has no settings.

    Source: Erdogan, Kupcu, Cicek, UnSplit, WPES 2022. Differences: gradients of features for gradients of weights; all
    rows at once, one backward pass a class; directions.
    """

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(
        Sees.SMASHED | Sees.FEATURES | Sees.LABEL_GRAD | Sees.TAIL, (Party.SERVER,), uses=Sees.NOTHING
    )
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Erdogan, Kupcu, Cicek, UnSplit, WPES 2022"

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K) in [-1.001, 1]."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        rows, tail = view.context.last(view.ids), view.tail()
        returned = view.label_grad(rows).flatten(1).double()
        mine = _gradients(tail, rows, view.classes)
        scores = F.cosine_similarity(returned[:, None], mine, dim=2, eps=TINY)
        lengths = returned.norm(dim=1, keepdim=True) + mine.norm(dim=2)
        scores = scores - TIE * (returned[:, None] - mine).norm(dim=2) / lengths.clamp(min=TINY)
        return Guess(
            ids=view.ids,
            labels=scores.argmax(1),
            scores=scores,
            budget=Budget(steps=view.classes, seconds=time.perf_counter() - began),
        )


def _features(rows: Releases) -> Tensor:
    """(R, D) of what the server sent."""
    assert rows.features is not None  # `need` has seen to it
    return rows.features.flatten(1)


def _gradients(tail: nn.Module, rows: Releases, classes: int) -> Tensor:
    """(R, K, D): the gradient at the features for each label."""
    assert rows.features is not None  # `need` has seen to it
    own = next(tail.parameters(), rows.features)
    features = rows.features.detach().to(own).requires_grad_(True)
    with torch.enable_grad():
        logs = F.log_softmax(tail(features.clone()).double(), 1).sum(0)
        each = [torch.autograd.grad(-logs[k], features, retain_graph=True)[0] for k in range(classes)]
    return torch.stack(each, 1).flatten(2).double()
