# SPDX-License-Identifier: Apache-2.0
"""The pipeline as deployed: head, defense, body and tail in eval mode, for test accuracy and for queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from splitguard.data.rows import Rows
from splitguard.engine.defense import Context, Defense
from splitguard.metrics.labels import auc

__all__ = ["Deployed", "Utility", "evaluating"]

CHUNK = 256


class Utility(NamedTuple):
    """How well a pipeline classifies rows.

    Attributes:
        accuracy: share of them that it classifies rightly; None without rows.
        auc: area under the ROC curve of the difference of the two logits; None for more than two outputs, for rows of
            one class, and where a logit is not finite.
    """

    accuracy: float | None = None
    auc: float | None = None

    def as_dict(self) -> dict[str, float | int | None]:
        """By name; an area only where there is one."""
        return {"accuracy": self.accuracy} | ({} if self.auc is None else {"auc": self.auc})


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """A block with networks in eval mode and without gradients; their modes are restored afterwards."""
    modes = [(m, m.training) for root in modules for m in root.modules()]
    for root in modules:
        root.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True)
class Deployed:
    """The stages of one deployment with its defense.

    Attributes:
        stages: head, body, and tail if there is one; live, so that it can be asked in mid-training.
        defense, noise: the defense and its randomness; the defense is None for the baseline without a wire.
        device: where the stages live.
    """

    stages: tuple[nn.Module, ...]
    defense: Defense | None
    noise: torch.Generator
    device: torch.device

    def send(self, inputs: Tensor, ctx: Context) -> Tensor:
        """Smashed data (N, *cut1) of ``inputs`` (N, *in), after the defense; ``inputs`` stay as they are."""
        with evaluating(self.stages[:1]):
            smashed: Tensor = self.stages[0](inputs.to(self.device, copy=True))  # it may work in place
            return smashed if self.defense is None else self.defense.on_send(smashed, ctx, self.noise)

    def utility(self, rows: Rows, ctx: Context) -> Utility:
        """What the pipeline makes of ``rows``; each crosses the wire once."""
        outs = []
        with evaluating(self.stages):
            for chunk in torch.arange(len(rows)).split(CHUNK):
                part = rows[chunk]
                out = self.send(part.inputs, replace(ctx, ids=part.ids))
                for stage in self.stages[1:]:
                    out = stage(out)
                outs.append(out.cpu())
        if len(rows) == 0:
            return Utility()
        logits = torch.cat(outs)
        right = int((logits.argmax(1) == rows.labels).sum())
        two = logits.shape[1] == 2 and bool(torch.isfinite(logits).all())
        area = auc(logits[:, 1].double() - logits[:, 0].double(), rows.labels) if two else None
        return Utility(right / len(rows), area)
