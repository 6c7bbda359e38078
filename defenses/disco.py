# SPDX-License-Identifier: Apache-2.0
"""DISCO: a small network chooses, input by input, which channels are not sent, against a simulated attacker."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

from splitguard.api import (
    DEFENSES,
    BadSetting,
    Batch,
    Context,
    Defense,
    Deployment,
    NotSupported,
    Phase,
    Spec,
    SplitModel,
    generator,
)
from splitguard.building.learners import seeded
from splitguard.building.simulated_attacker import SimulatedAttacker, mean_image

__all__ = ["Disco"]


class _Pruner(nn.Module):
    """Scores of the channels (N, C) of smashed data (N, C, ...); those of one row depend on no other row."""

    def __init__(self, cut_shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        channels = cut_shape[0]
        if len(cut_shape) == 3:
            first, second = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
            self.look = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        else:
            self.look = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(cut_shape), width), nn.ReLU())
        self.score = nn.Linear(width, channels)

    def forward(self, smashed: Tensor) -> Tensor:
        """In float32."""
        out: Tensor = self.score(self.look(smashed.float()))
        return out


@DEFENSES.add("disco")
@dataclass(kw_only=True)
class Disco(Defense):
    """Sends each row with a share of its channels set to 0, those that a pruner network P chooses for this row.

        s = P(z) in R^C,    kept: the C - round(ratio C) channels of largest s, at least one

    P is trained on the task's loss, which reaches it through what is sent, minus ``weight`` times the squared error (in
    squared units of the inputs) of a decoder D, which is trained at each step to reconstruct the inputs from what is
    sent: P learns to drop what D lives on. The choice is hard wherever something is sent; P's gradient is that of
    ``sigmoid((s - threshold) / temperature)``, the threshold midway between the last score kept and the first one
    pruned. The head is trained by the task alone. What a step teaches P is taken up when the next round begins, since
    the server's gradient comes after the sending. Where several clients take part, P and D are handed on like the head.

    An attacker who knows of the pruning matches the channels that were sent (see `residual`), and no others. Nothing is
    guaranteed; beside an accounted release it keeps rows apart, but it learns from raw rows.

    Args:
        ratio: share of the channels (of units, at a flat cut) that are pruned, in [0, 1); at 0 nothing is, to the bit.
        weight: of the decoder's error in P's loss, 0 or more.
        temperature: of the soft choice that P's gradient is taken of, positive, in units of the scores.
        width: hidden channels of P, and channels of D.
        blocks: residual blocks of D.
        lr: of Adam for both, positive.

    Raises:
        BadSetting: for settings outside their range; from `bind`, if the inputs are not images.
        NotSupported: from `bind`, for a frozen head: then the server returns no gradient that P could learn from.

    Source: Singh, Chopra, Garza, Zhang, Vepakomma, Sharma, Raskar, DISCO: dynamic and invariant sensitive channel
    obfuscation for deep neural networks, CVPR 2021; code in use takes ratios of .75 to .99 of many channels, a
    temperature of 1/30, weight 1. Differences: the soft choice is never sent, as it only scales the pruned channels
    down, and who knows P scales them up again; P is a small network, there a ResNet-18; the adversary reconstructs
    inputs, there often an attribute. The attack that matches the channels sent is that of DRAG (Lei et al., 2025).
    """

    ratio: float = 0.5
    weight: float = 1.0
    temperature: float = 1 / 30
    width: int = 16
    blocks: int = 1
    lr: float = 1e-3
    _seed: int = field(default=0, init=False, repr=False, compare=False)
    _facts: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _nets: tuple[_Pruner, SimulatedAttacker] | None = field(default=None, init=False, repr=False, compare=False)
    _optimizer: torch.optim.Optimizer | None = field(default=None, init=False, repr=False, compare=False)
    _step: int = field(default=-1, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Singh et al., DISCO, CVPR 2021"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "smashed data"
    null: ClassVar[Mapping[str, Any] | None] = {"ratio": 0.0}
    breakers: ClassVar[tuple[Spec, ...]] = (
        "white-box-inversion",
        {"inverse-network": {"width": 64, "blocks": 8, "lr": 0.002}},
        "deep-prior",
        "attribute",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise BadSetting(f"disco: ratio must be at least 0 and below 1; got {self.ratio!r}")
        for name, least in (("weight", 0), ("width", 1), ("blocks", 0)):
            if not least <= getattr(self, name) < math.inf:
                raise BadSetting(f"disco: {name} must be at least {least} and finite; got {getattr(self, name)!r}")
        for name in ("temperature", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadSetting(f"disco: {name} must be positive and finite; got {getattr(self, name)!r}")

    def wrap(self, split: SplitModel, generator: torch.Generator) -> SplitModel:
        """``split`` as it is; draws the seed of the networks."""
        if self.ratio > 0:
            self._seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        return split

    def bind(self, deployment: Deployment) -> None:
        """Makes both networks for the shapes of this deployment."""
        if self.ratio == 0:
            return
        if deployment.head_frozen:
            raise NotSupported(
                "disco: with a frozen head the server returns no gradient, so the pruner cannot learn what the task "
                "needs. Use train: {head: trained}, or top-k, which learns nothing"
            )
        shapes = {"cut": list(deployment.cut_shapes[0]), "input": list(deployment.input_shape)}
        self._make({**shapes, "around": mean_image(deployment.aux.inputs, deployment.input_shape)})

    def _make(self, facts: dict[str, Any]) -> None:
        """Both networks, with weights drawn from the seed."""
        draws = generator(self._seed, "disco")
        cut, inputs, around = tuple(facts["cut"]), tuple(facts["input"]), facts["around"]
        attacker = SimulatedAttacker(
            cut, inputs, around=around, width=self.width, blocks=self.blocks, lr=self.lr, generator=draws
        )
        with seeded(draws, around):
            pruner = _Pruner(cut, self.width)
        self._facts, self._nets = facts, (pruner, attacker)
        self._optimizer = torch.optim.Adam(pruner.parameters(), lr=self.lr)

    @property
    def _networks(self) -> tuple[_Pruner, SimulatedAttacker]:
        if self._nets is None:
            raise NotSupported("disco: its networks are made for a deployment; call bind before anything is sent")
        return self._nets

    def modules(self) -> Mapping[str, nn.Module]:
        """Pruner and decoder."""
        return {} if self._nets is None else {"pruner": self._nets[0], "decoder": self._nets[1].net}

    def _pruned(self, smashed: Tensor, *, live: bool) -> Tensor:
        """``smashed`` without the channels that the pruner drops; ``live`` lets gradients reach the pruner."""
        pruner = self._networks[0].to(smashed.device)
        weights = {name: p if live else p.detach() for name, p in pruner.named_parameters()}
        scores: Tensor = functional_call(pruner, weights, (smashed,))
        count = scores.shape[1]
        kept = max(count - round(self.ratio * count), 1)
        if kept == count:
            return smashed
        ordered, order = scores.detach().sort(dim=1, descending=True)
        hard = torch.zeros_like(scores).scatter(1, order[:, :kept], 1.0)
        threshold = (ordered[:, kept - 1 : kept] + ordered[:, kept : kept + 1]) / 2
        soft = ((scores - threshold) / self.temperature).sigmoid()
        shape = (*scores.shape, *[1] * (smashed.dim() - 2))
        # The second term is exactly 0, and carries the gradient of the soft choice.
        through = (soft - soft.detach()).view(shape).to(smashed.dtype)
        return smashed * hard.view(shape).to(smashed.dtype) + smashed.detach() * through

    def adversary_step(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> None:
        """One step of the decoder, and what it would cost the pruner, added to the pruner's gradients."""
        if self.ratio == 0:
            return
        attacker = self._networks[1]
        attacker.learn(self._pruned(smashed, live=False), batch.inputs, mse_loss)
        if self.weight > 0:
            with torch.enable_grad():
                images = attacker.images(self._pruned(smashed, live=True))
                torch.autograd.backward(-self.weight * mse_loss(images, batch.inputs.float()))

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N, *cut1), pruned row by row; the first sending of a training round takes up what the last one taught."""
        if self.ratio == 0:
            return smashed
        training = ctx.phase is Phase.TRAINING and torch.is_grad_enabled()
        # Not in `adversary_step`: clients of one round all send before the first gradient comes back.
        if training and ctx.step != self._step:
            assert self._optimizer is not None
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._step = ctx.step
        return self._pruned(smashed, live=training)

    def mean_release(self, smashed: Tensor) -> Tensor:
        """What is sent; nothing is drawn."""
        return smashed if self.ratio == 0 else self._pruned(smashed, live=False)

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """What is sent; nothing is drawn."""
        return self.mean_release(smashed)

    def residual(self, made: Tensor, sent: Tensor) -> Tensor:
        """``made - sent`` in the channels that were sent, those with an entry other than 0, and 0 in the others."""
        return made - sent if self.ratio == 0 else _in_sent_channels(made, sent)

    def outside(self) -> Defense:
        """Which channels are pruned is up to a network of the client's; what was sent shows which were."""
        return self if self.ratio == 0 else _Seen()

    def state_dict(self) -> dict[str, Any]:
        """Shapes, the mean auxiliary image, both optimizers, and the gradients that the next round takes up."""
        if self._nets is None or self._optimizer is None:
            return {}
        pruner, attacker = self._nets
        return {
            **self._facts,
            "step": self._step,
            "optimizer": self._optimizer.state_dict(),
            "attacker": attacker.state_dict(),
            "pending": {name: p.grad.clone() for name, p in pruner.named_parameters() if p.grad is not None},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; the weights come with `modules`."""
        if not state:
            return
        self._make({name: state[name] for name in ("cut", "input", "around")})
        pruner, attacker = self._networks
        assert self._optimizer is not None
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        attacker.load_state_dict(state["attacker"])
        self._step = state["step"]
        for name, p in pruner.named_parameters():
            p.grad = state["pending"][name].clone() if name in state["pending"] else None


class _Seen(Defense):
    """DISCO without its pruning network."""

    def residual(self, made: Tensor, sent: Tensor) -> Tensor:
        """As that of `Disco`, which needs none."""
        return _in_sent_channels(made, sent)


def _in_sent_channels(made: Tensor, sent: Tensor) -> Tensor:
    """``made - sent`` in each row's channels with an entry other than 0, and 0 in the others."""
    shown = (sent.flatten(1).view(*sent.shape[:2], -1) != 0).any(2)
    return (made - sent) * shown.view(*sent.shape[:2], *[1] * (sent.dim() - 2)).to(made.dtype)
