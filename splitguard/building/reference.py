# SPDX-License-Identifier: Apache-2.0
"""Networks for smashed data that have never seen the victims, and how confident a network is of a label."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from splitguard.building.learners import rows_of, seeded
from splitguard.engine.fresh import fresh_copy

__all__ = ["confidence", "fitted", "fresh_fitted"]


def confidence(network: nn.Module, smashed: Tensor, labels: Tensor | None = None) -> Tensor:
    """(N,) float64: ``log p_y - log(1 - p_y)``, the logit of the probability of label y; it does not saturate.

    Args:
        network: smashed data (N, *cut) to logits (N, K).
        smashed: (N, *cut).
        labels: (N,); None for the label that the network itself finds most likely.
    """
    with torch.no_grad():
        # A first layer that writes in place must not change what the next network is asked about.
        logits = torch.cat([network(part.clone()) for part in smashed.split(256)]).double()
    chosen = logits.argmax(1) if labels is None else labels
    here = one_hot(chosen, logits.shape[1]).bool()
    return logits[here] - logits.masked_fill(here, -torch.inf).logsumexp(1)


def fresh_fitted(
    network: nn.Module, smashed: Tensor, labels: Tensor, *, steps: int, generator: torch.Generator
) -> nn.Module:
    """The architecture of ``network`` with weights drawn afresh, then `fitted`."""
    return fitted(fresh_copy(network, generator), smashed, labels, steps=steps, generator=generator)


def fitted(
    network: nn.Module,
    smashed: Tensor,
    labels: Tensor,
    *,
    steps: int,
    generator: torch.Generator,
    lr: float = 1e-3,
    batch_size: int = 32,
) -> nn.Module:
    """Trains what of ``network`` needs a gradient by cross entropy, with Adam, and hands it back in eval mode.

    Args:
        network: smashed data (N, *cut) to logits (N, K); it is changed.
        smashed: (M, *cut), the attacker's own.
        labels: (M,).
        steps: of the optimizer.
        generator: draws batches, and whatever layers draw.
        lr: step size.
        batch_size: rows a step, at most; fewer where there are fewer.
    """
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=lr)
    size = min(batch_size, len(smashed))
    with torch.enable_grad():
        for _ in range(steps):
            rows = rows_of(len(smashed), size, generator)
            with seeded(generator, smashed):
                loss = cross_entropy(network(smashed[rows]), labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return network.eval().requires_grad_(False)
