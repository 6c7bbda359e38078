# SPDX-License-Identifier: Apache-2.0
"""The missing layers above the cut, learned from a few labelled rows: what passive and active completion share."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitguard.building.embeddings import CHUNK, OWN_SIDE, below_labels, embeddings, material
from splitguard.building.mixmatch import MixMatch
from splitguard.data.augment import augment
from splitguard.engine.roles import Budget, Guess
from splitguard.engine.threat import Party, Sees
from splitguard.engine.view import View
from splitguard.errors import BadSetting, MissingKnowledge
from splitguard.seeding import derive, drawing

__all__ = ["READS", "Completion"]

#: What `Completion.complete` reads where it is granted, for the ``uses`` of a threat.
READS = OWN_SIDE | Sees.AUX | Sees.QUERY
#: Units of each hidden layer of a completion of several layers.
WIDTH = 128
#: Images and maps are shifted by up to this share of their side as another version of themselves.
SHIFT = 1 / 14


@dataclass(kw_only=True)
class Completion:
    """The settings of a completion, and the completion itself; see the attacks that are made of it."""

    labelled: int = 4
    queries: bool = False
    layers: int = 1
    finetune: bool = False
    steps: int = 600
    lr: float = 2e-3
    batch_size: int = 16
    temperature: float = 0.8
    alpha: float = 0.75
    unlabelled: float = 50.0
    average: float = 0.999

    def __post_init__(self) -> None:
        for name in ("labelled", "layers", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise BadSetting(f"model completion: {name} must be at least 1; got {getattr(self, name)!r}")
        for name in ("alpha", "unlabelled"):
            if not getattr(self, name) >= 0:
                raise BadSetting(f"model completion: {name} must be 0 or more; got {getattr(self, name)!r}")
        if not self.lr > 0:
            raise BadSetting(f"model completion: lr must be positive; got {self.lr!r}")
        if not 0 < self.temperature <= 1:
            raise BadSetting(f"model completion: temperature must lie in (0, 1]; got {self.temperature!r}")
        if not 0 <= self.average < 1:
            raise BadSetting(f"model completion: average must lie in [0, 1); got {self.average!r}")

    def complete(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K), log-probabilities, for the view's victims.

        Raises:
            MissingKnowledge: by name, or if the view holds no row whose label is known.
        """
        began = time.perf_counter()
        rows, labels, aux, queries = self._labelled(view, generator)
        victims = material(view, view.ids)
        one = embeddings(view, view.ids[:1])
        trunk = below_labels(view).requires_grad_(self.finetune)
        # The attacker's own layers stay in eval mode: a batch of a few labelled rows would spoil their statistics.
        top = classifier(one[0].numel(), view.classes, layers=self.layers, generator=generator)
        network = nn.Sequential(trunk, top.to(one))
        trainer = MixMatch(
            steps=self.steps,
            lr=self.lr,
            batch_size=self.batch_size,
            temperature=self.temperature,
            alpha=self.alpha,
            unlabelled=self.unlabelled,
            average=self.average,
        )
        trained, losses = trainer.fit(
            network, rows, labels, victims, classes=view.classes, augment=shifted, generator=generator
        )
        with torch.no_grad():
            scores = torch.cat([trained(part).log_softmax(1) for part in torch.split(victims, CHUNK)])
        return Guess(
            ids=view.ids,
            labels=scores.argmax(1),
            scores=scores,
            budget=Budget(steps=self.steps, queries=queries, aux=aux, seconds=time.perf_counter() - began),
            converged=_rested(losses),
            settings={"labelled_rows": len(labels)},
        )

    def _labelled(self, view: View, generator: torch.Generator) -> tuple[Tensor, Tensor, int, int]:
        """Labelled rows and labels, of them how many are auxiliary, and the queries these took.

        A client sends auxiliary inputs through its own head; a server has to ask the deployed pipeline.
        """
        known = view.known
        if len(known.ids) == 0:
            raise MissingKnowledge("this view holds no row whose label is known; model completion needs one a class")
        own = view.party is Party.CLIENT
        if self.labelled == 1 or not (view.sees(Sees.AUX) if own else self.queries):
            return material(view, known.ids), known.labels, 0, 0
        have = torch.bincount(known.labels, minlength=view.classes)
        order = torch.randperm(len(view.aux), generator=generator)
        labels = view.aux.labels[order].cpu()  # as the positions are
        chosen = torch.cat([order[labels == k][: max(self.labelled - int(have[k]), 0)] for k in range(view.classes)])
        inputs = view.aux.inputs[chosen]
        more = inputs if own or len(chosen) == 0 else view.query(inputs, generator)
        rows = material(view, known.ids)
        rows = torch.cat([rows, more.to(rows)]) if len(chosen) else rows
        return rows, torch.cat([known.labels, view.aux.labels[chosen]]), len(chosen), 0 if own else len(chosen)


def classifier(size: int, classes: int, *, layers: int, generator: torch.Generator) -> nn.Module:
    """(N, *) of ``size`` coordinates to logits (N, classes): length to 1, ``layers`` times BatchNorm, ReLU, linear."""
    widths = [size, *[WIDTH] * (layers - 1), classes]
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with drawing(derive(seed, "completion")):
        blocks = [(nn.BatchNorm1d(a), nn.ReLU(), nn.Linear(a, b)) for a, b in itertools.pairwise(widths)]
        return nn.Sequential(nn.Flatten(), _UnitLength(), *itertools.chain.from_iterable(blocks))


class _UnitLength(nn.Module):
    """Scales each row (N, D) to length 1: what rows of one class share is direction, more than length."""

    def forward(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=1)


def shifted(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Images or maps (N, C, H, W) moved by up to a fourteenth of their side; smaller ones and other rows as they are.

    No flips: a mirrored digit is another sign, and nothing tells this attack what its images show.
    """
    pixels = int(SHIFT * min(rows.shape[2:])) if rows.ndim == 4 else 0
    return augment(rows, {"crop": pixels}, generator)


def _rested(losses: list[float]) -> bool:
    """Whether the mean loss on labelled rows fell by less than 1 % from one fifth of the steps to the last fifth."""
    fifth = max(len(losses) // 5, 1)
    last = math.fsum(losses[-fifth:]) / fifth
    before = losses[-2 * fifth : -fifth] or losses[-fifth:]
    return last > 0.99 * math.fsum(before) / len(before)
