# SPDX-License-Identifier: Apache-2.0
"""Learnt noise: a collection of tensors that are as loud as the task allows, one of which is added to each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import skip_init

from splitguard.api import DEFENSES, BadSetting, Context, Defense, Deployment, NotSupported, SplitModel, generator
from splitguard.building.rows_alone import aux_smashed

__all__ = ["Shredder", "learn_noise"]

#: Units of the stand-in body's hidden layer, its step size, and the rows of one step.
HIDDEN, RATE, BATCH = 64, 3e-3, 64


@DEFENSES.add("shredder")
@dataclass(kw_only=True)
class Shredder(Defense):
    """Sends ``z + n_k`` in place of ``z``, k drawn afresh for every row and sending from a collection n_1 .. n_K.

    The collection is learnt once, before training, on auxiliary rows, the head and a stand-in body g being fixed:

        minimise over n_1 .. n_K:   mean CE(g(z + n_k), y) - weight * mean log(P_k / S)

    with P_k the mean square of n_k and S that of the auxiliary smashed data, so that ``P / S`` is the inverse of the
    signal-to-noise ratio. Each n_k begins as a Laplace draw of its own. The body is the server's, so the client learns
    a stand-in from auxiliary rows: one hidden layer, standardised inputs. The published setting is a network that is
    trained already: ``head: frozen`` here. With a head that is still trained, the noise stays as the head before
    training asked for, and the body learns to live with it.

    Nothing is guaranteed: there are only K noises. The attacker is given the collection, as it can be learnt from what
    is sent, and cancels the member that fits best (`residual`). With ``count: 0`` it is an identity, to the bit.

    Args:
        weight: of the noise's power against the cross-entropy, in nats, finite, 0 or more.
        count: K, the number of tensors; 0 is no noise.
        steps: of Adam, for the stand-in body and then for the collection; more is louder where the body does not look.
        rate: step size for the collection, in units of the root mean square of the smashed data.
        start: standard deviation of the Laplace draws in the same units.
        rows: auxiliary rows, at most, to learn from.

    Raises:
        BadSetting: for a setting outside its range; from `bind`, if there is nothing to learn from.

    Source: Mireshghallah et al., Shredder: learning noise distributions to protect inference privacy, ASPLOS 2020.
    Differences: the logarithm of the power, where theirs is the sum of magnitudes, so that a weight means the same at
    every cut; a stand-in for the body, where they have it; members are sampled, not a distribution fitted to them.
    """

    weight: float = 0.1
    count: int = 16
    steps: int = 200
    rate: float = 0.02
    start: float = 1.0
    rows: int = 512
    _seed: int = field(default=0, init=False, repr=False, compare=False)
    _collection: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Mireshghallah et al., Shredder, ASPLOS 2020"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "smashed data"
    null: ClassVar[Mapping[str, Any] | None] = {"count": 0}
    breakers = ("white-box-inversion", "inverse-network", "candidate-match")

    def __post_init__(self) -> None:
        least = {"weight": 0, "count": 0, "steps": 0, "rate": 0, "start": 0, "rows": 1}
        for name, value in least.items():
            got = getattr(self, name)
            if not value <= got < math.inf:
                raise BadSetting(f"shredder: {name} must be finite and at least {value}; got {got!r}")

    def wrap(self, split: SplitModel, generator: torch.Generator) -> SplitModel:
        """The network as it is; what `bind` draws is seeded here, so that two sessions have two collections."""
        self._seed = int(torch.randint(2**62, (1,), generator=generator))
        return split

    def bind(self, deployment: Deployment) -> None:
        """Learns the collection; nothing of it is private."""
        if self.count == 0:
            return
        chunks, have = [], 0
        for chunk in aux_smashed(deployment):
            chunks.append(chunk)
            have += len(chunk)
            if have >= self.rows:
                break
        smashed = torch.cat(chunks)[: self.rows].float() if chunks else torch.zeros(0)
        loud = float(smashed.square().mean().sqrt()) if len(smashed) else math.nan
        if not 0 < loud < math.inf:
            raise BadSetting(
                f"shredder: noise is learnt from the smashed data of auxiliary rows, whose root mean square must be "
                f"positive and finite; over {len(smashed)} rows it is {loud}. Give rows that the head reacts to"
            )
        labels = deployment.aux.labels[: len(smashed)]
        gen = generator(self._seed, "shredder")
        body = _stand_in(smashed, labels, deployment.classes, self.steps, gen)
        both = torch.empty(2, self.count, *smashed.shape[1:]).exponential_(generator=gen)
        first = self.start * loud / math.sqrt(2) * (both[0] - both[1])  # Laplace
        self._collection = learn_noise(
            first, smashed, labels, body, weight=self.weight, steps=self.steps, rate=self.rate * loud, generator=gen
        )

    def _members(self, like: Tensor) -> Tensor:
        if self._collection is None:
            raise NotSupported("shredder: the noise is learnt for a deployment; call bind before anything is sent")
        return self._collection.to(like)

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N, *cut1): ``smashed`` and a member of the collection, drawn for each row."""
        return self.released_like(smashed, generator)

    def mean_release(self, smashed: Tensor) -> Tensor:
        """``smashed`` and the mean of the collection."""
        return smashed + self._members(smashed).mean(0) if self.count else smashed

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """``smashed`` and a member of the collection, drawn for each row from ``generator``."""
        if self.count == 0:
            return smashed
        drawn = torch.randint(self.count, (len(smashed),), generator=generator, device=generator.device)
        return smashed + self._members(smashed)[drawn.to(smashed.device)]

    def residual(self, made: Tensor, sent: Tensor) -> Tensor:
        """``made + n_k - sent`` with the member that leaves least."""
        if self.count == 0:
            return made - sent
        members, apart = self._members(made), made - sent
        with torch.no_grad():
            flat = members.flatten(1)
            best = (2 * apart.flatten(1) @ flat.T + flat.square().sum(1)).argmin(1)
        return apart + members[best]

    def state_dict(self) -> dict[str, Any]:
        """The collection; empty before `bind`."""
        return {} if self._collection is None else {"collection": self._collection.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        if state:
            self._collection = state["collection"].clone()


def learn_noise(
    first: Tensor,
    smashed: Tensor,
    labels: Tensor,
    body: Callable[[Tensor], Tensor],
    *,
    weight: float,
    steps: int,
    rate: float,
    generator: torch.Generator,
) -> Tensor:
    """(K, *cut1): the collection that begins as ``first`` and ends louder where ``body`` does not mind.

    Args:
        first: (K, *cut1), K at least 1; not written to.
        smashed: (M, *cut1), of auxiliary rows.
        labels: (M,), theirs.
        body: from smashed data to logits; its parameters are not changed.
        weight: of the log power, as in `Shredder`.
        steps: of Adam.
        rate: step size, in units of the smashed data.
        generator: draws the rows of each step.
    """
    noise = first.clone().requires_grad_()
    optimizer = torch.optim.Adam([noise], lr=rate)
    signal = smashed.square().mean()
    size = max(BATCH, 4 * len(first))
    member = torch.arange(size) % len(first)
    for _ in range(steps):
        rows = torch.randint(len(smashed), (size,), generator=generator)
        louder = noise.flatten(1).square().mean(1) / signal
        loss = cross_entropy(body(smashed[rows] + noise[member]), labels[rows]) - weight * louder.log().mean()
        # Of the noise alone: whatever else the loss depends on keeps its gradients as they are.
        (noise.grad,) = torch.autograd.grad(loss, noise)
        optimizer.step()
    return noise.detach()


def _stand_in(smashed: Tensor, labels: Tensor, classes: int, steps: int, generator: torch.Generator) -> nn.Module:
    """A small classifier of smashed data, in place of the body that only the server has."""
    flat = smashed.flatten(1)
    norm = _Standard(flat.mean(0), flat.std(0, correction=0) + 1e-3 * flat.std() + 1e-12)
    layers = [skip_init(nn.Linear, flat.shape[1], HIDDEN), skip_init(nn.Linear, HIDDEN, classes)]
    for layer in layers:
        for parameter in layer.parameters():
            limit = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(parameter, -limit, limit, generator=generator)
    body = nn.Sequential(nn.Flatten(), norm, layers[0], nn.ReLU(), layers[1])
    optimizer = torch.optim.Adam(body.parameters(), lr=RATE)
    for _ in range(steps):
        rows = torch.randint(len(smashed), (BATCH,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(body(smashed[rows]), labels[rows]).backward()
        optimizer.step()
    return body.requires_grad_(False)


class _Standard(nn.Module):
    """``(x - mean) / std``, each coordinate by itself."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self._mean, self._std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        """Of (N, d)."""
        return (x - self._mean) / self._std
