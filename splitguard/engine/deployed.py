# SPDX-License-Identifier: Apache-2.0
"""The pipeline as deployed: head, defense, body and tail in eval mode, for test accuracy and for queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from splitguard.data.rows import Rows
from splitguard.engine.defense import Context, Defense

__all__ = ["Deployed", "evaluating"]

CHUNK = 256


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

    def accuracy(self, rows: Rows, ctx: Context) -> float | None:
        """The share of ``rows`` that the pipeline classifies rightly; None without rows."""
        right = 0
        with evaluating(self.stages):
            for chunk in torch.arange(len(rows)).split(CHUNK):
                part = rows[chunk]
                out = self.send(part.inputs, replace(ctx, ids=part.ids))
                for stage in self.stages[1:]:
                    out = stage(out)
                right += int((out.argmax(1).cpu() == part.labels).sum())
        return right / len(rows) if len(rows) else None
