# SPDX-License-Identifier: Apache-2.0
"""Semi-supervised training from a few labelled rows and many others, by guessing, sharpening and mixing labels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitguard.building.learners import rows_of
from splitguard.seeding import derive, drawing, numpy_generator

__all__ = ["MixMatch", "mixed", "sharpened"]

#: Makes another version of rows (N, *shape) that has the same labels.
Augment = Callable[[Tensor, torch.Generator], Tensor]
#: Versions of each unlabelled row that are averaged into its guessed label.
VERSIONS = 2


def sharpened(probabilities: Tensor, temperature: float) -> Tensor:
    """(N, K): p_k^(1/T) / sum_j p_j^(1/T); temperature 1 changes nothing, small ones tend to the largest class."""
    powers = (probabilities.clamp(min=1e-30).log() / temperature).softmax(1)
    return probabilities if temperature == 1 else powers


def mixed(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """``share * one + (1 - share) * other``, row by row; share (N,)."""
    weight = share.view(-1, *[1] * (one.ndim - 1)).to(one)
    return weight * one + (1 - weight) * other


@dataclass(frozen=True, kw_only=True)
class MixMatch:
    """Trains a classifier on labelled rows (x, y) and unlabelled rows u.

        q = sharpen(mean of p(y | two versions of u), temperature)
        (x', y'), (u', q') = each row mixed with one of either kind, its share max(b, 1 - b), b ~ Beta(alpha, alpha)
        loss = CE(p(x'), y') + ramp unlabelled mean (p(u') - q')^2,    ramp from 0 to 1 over the steps

    and hands back the exponential average of the weights.

    Args:
        steps: of Adam.
        lr: its step size.
        batch_size: labelled rows a step, and as many unlabelled ones; drawn with replacement where there are fewer.
        temperature: T, in (0, 1].
        alpha: of the Beta distribution; 0 mixes nothing.
        unlabelled: weight of the second term; with 0 the unlabelled rows serve for mixing alone.
        average: decay of the exponential average, as soon as that many steps are done: after t steps the smaller of it
            and (1 + t) / (10 + t) counts, so that short runs do not average in their random start.

    Source: Berthelot et al., MixMatch: a holistic approach to semi-supervised learning, NeurIPS 2019. Differences: the
    warm-up of the average; one forward pass of all rows, where there batches are interleaved to the same end; no weight
    decay.
    """

    steps: int
    lr: float
    batch_size: int
    temperature: float
    alpha: float
    unlabelled: float
    average: float

    def fit(
        self,
        network: nn.Module,
        rows: Tensor,
        labels: Tensor,
        others: Tensor,
        *,
        classes: int,
        augment: Augment,
        generator: torch.Generator,
    ) -> tuple[nn.Module, list[float]]:
        """The averaged network in eval mode, and the loss on labelled rows at each step.

        Args:
            network: (N, *shape) to logits (N, K), in the mode to train it in; its parameters with gradients on move.
            rows: (A, *shape), labelled.
            labels: (A,), int64.
            others: (M, *shape), unlabelled; with none of them only the first term is left.
            classes: K.
            augment: draws from the generator that it is given.
            generator: of everything drawn.
        """
        average = copy.deepcopy(network).requires_grad_(False)
        optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=self.lr)
        seed = int(torch.randint(2**31, (1,), generator=generator))
        shares = numpy_generator(seed, "shares")
        losses = []
        with drawing(derive(seed, "layers")):  # for dropout in the network
            targets = F.one_hot(labels, classes).to(rows)
            for step in range(self.steps):
                chosen = rows_of(len(rows), self.batch_size, generator)
                batch, wanted, known = augment(rows[chosen], generator), targets[chosen], len(chosen)
                if len(others):
                    unlabelled = others[rows_of(len(others), self.batch_size, generator)]
                    versions = [augment(unlabelled, generator) for _ in range(VERSIONS)]
                    guess = self._guess(network, versions)
                    batch, wanted = torch.cat([batch, *versions]), torch.cat([wanted, *[guess] * VERSIONS])
                share = torch.ones(len(batch))
                if self.alpha:
                    share = torch.from_numpy(shares.beta(self.alpha, self.alpha, len(batch)))
                    share = torch.maximum(share, 1 - share)
                partner = torch.randperm(len(batch), generator=generator)
                batch, wanted = mixed(batch, batch[partner], share), mixed(wanted, wanted[partner], share)
                logits = network(batch)
                loss = -(wanted[:known] * logits[:known].log_softmax(1)).sum(1).mean()
                losses.append(float(loss.detach()))
                if len(others) and self.unlabelled:
                    ramp = (step + 1) / self.steps
                    error = (logits[known:].softmax(1) - wanted[known:]).square().mean()
                    loss = loss + ramp * self.unlabelled * error
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                self._move(average, network, step)
        return average.eval(), losses

    def _guess(self, network: nn.Module, versions: list[Tensor]) -> Tensor:
        """(B, K): the sharpened mean of what the network says of each version."""
        with torch.no_grad():
            said: Tensor = network(torch.cat(versions)).softmax(1)
        return sharpened(torch.stack(said.chunk(len(versions))).mean(0), self.temperature)

    def _move(self, average: nn.Module, network: nn.Module, step: int) -> None:
        decay = min(self.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for mine, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                if mine.is_floating_point():
                    mine.lerp_(new, 1 - decay)
                else:
                    mine.copy_(new)
