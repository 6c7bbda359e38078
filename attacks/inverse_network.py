# SPDX-License-Identifier: Apache-2.0
"""Inputs by a decoder trained on what the deployed pipeline makes of the attacker's own images."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.decoders import Decoder, make_decoder
from splitguard.building.linear import LinearInverse

#: Shares of the decoder that are tried beside the regression, and the images that the regression is fitted to.
SHARES, RIDGE = (0.0, 0.25, 0.5, 0.75, 1.0), 1000


@ATTACKS.add("inverse-network")
@dataclass(kw_only=True)
class InverseNetwork(Attack):
    """Trains a decoder D on pairs (q(x), x) of auxiliary images, q the deployed pipeline with its defense.

        min_D  mean ||D(q(x)) - x||^2,    then    x_hat = D(z)

    q is asked afresh in each epoch, so that D sees new noise each time and tends to the posterior mean. Where one head
    made all releases of a victim, D is trained on means of T answers and reads the mean of the T releases; where the
    head moved between them, it reads the last one, which the deployed head resembles most.

    A tenth of the auxiliary images is kept aside. On them the attack chooses the decoder's best epoch, and how to blend
    it with a ridge regression from q(x) to x, which needs fewer images and wins at narrow cuts.

    An attacker that is not adaptive asks once, trains on that one draw of the noise, and reads the last release.

    Args:
        steps: optimizer steps, at most.
        width: channels of the decoder; None is 32, or 16 where it works at the input's own resolution.
        blocks: its residual blocks at the resolution of the cut; 0 is a plain decoder, 8 with width 64 the strongest
            of the literature's (N8C64 of ResSFL).
        lr: Adam's step size, falling to 0 along a half cosine.
        batch_size: auxiliary images a step.
        aux: auxiliary images, at most.
        flip: also uses mirrored auxiliary images.

    Source: He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019 (the black-box attack).
    Differences: fresh noise, several releases, early stopping and a blend chosen on images kept aside, residual blocks
    (ResSFL, CVPR 2022).
    """

    steps: int = 400
    width: int | None = None
    blocks: int = 1
    lr: float = 3e-3
    batch_size: int = 32
    aux: int = 2000
    flip: bool = True

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.QUERY | Sees.AUX, (Party.SERVER,))
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("width", 1), ("blocks", 0), ("batch_size", 1), ("aux", 10)):
            if (getattr(self, name) or least) < least:
                raise BadSetting(f"inverse-network: {name} must be at least {least}; got {getattr(self, name)!r}")
        if not self.lr > 0:
            raise BadSetting(f"inverse-network: lr must be positive; got {self.lr!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """(N, *in) in [0, 1]."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        sent, times = _sent(view)
        known = view.aux.inputs[torch.randperm(len(view.aux), generator=generator)[: self.aux]]
        if len(known) < 10:
            raise BadSetting(f"inverse-network needs at least 10 auxiliary images; got {len(known)}")
        aside = max(len(known) // 10, 4)
        held, used = known[:aside], known[aside:]
        if self.flip:
            used = torch.cat([used, used.flip(-1)])
        ask = _Pipeline(view, times, generator)
        cut, shape = view.cut_shapes[0], view.input_shape
        width = self.width or (16 if cut[-2:] == shape[-2:] else 32)
        decoder = make_decoder(cut, shape, width=width, blocks=self.blocks, generator=generator)
        decoder, steps, best = self._train(decoder, used, held, ask, generator)
        ridge = LinearInverse.fit(ask(used[:RIDGE]), used[:RIDGE])
        share = _best_share(decoder, ridge, ask(held), held)
        with torch.no_grad():
            images = torch.cat([_blend(decoder, ridge, share, part) for part in sent.split(256)])
        return Guess(
            view.ids,
            images=images,
            budget=Budget(steps=steps, queries=ask.queries, aux=len(known), seconds=time.perf_counter() - began),
            settings={"best_epoch": best, "releases_averaged": times, "decoder_share": share},
        )

    def _train(
        self, decoder: Decoder, used: Tensor, held: Tensor, ask: _Pipeline, generator: torch.Generator
    ) -> tuple[Decoder, int, int]:
        """The decoder of the best epoch, the steps spent, and which epoch it was."""
        tests = ask(held)
        answers = ask(used)
        decoder.begin(answers, used)
        optimizer = torch.optim.Adam(decoder.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        best, least, chosen, epoch, step = copy.deepcopy(decoder), float("inf"), 0, 0, 0
        while step < self.steps:
            answers = ask(used) if epoch and ask.fresh else answers
            for batch in torch.randperm(len(used), generator=generator).split(self.batch_size):
                optimizer.zero_grad()
                mse_loss(decoder(answers[batch]), used[batch]).backward()
                optimizer.step()
                schedule.step()
                step += 1
                if step == self.steps:
                    break
            epoch += 1
            with torch.no_grad():
                loss = float(mse_loss(decoder(tests), held))
            if loss < least:
                best, least, chosen = copy.deepcopy(decoder), loss, epoch
        return best.eval(), step, chosen


def _blend(decoder: Decoder, ridge: LinearInverse, share: float, smashed: Tensor) -> Tensor:
    """``share`` of the decoder's image and the rest of the regression's, in [0, 1]."""
    mixed: Tensor = share * decoder(smashed) + (1 - share) * ridge(smashed)
    return mixed.clamp(0, 1)


def _best_share(decoder: Decoder, ridge: LinearInverse, smashed: Tensor, images: Tensor) -> float:
    """The share of the decoder that comes nearest to images kept aside."""
    with torch.no_grad():
        losses = {share: float(mse_loss(_blend(decoder, ridge, share, smashed), images)) for share in SHARES}
    return min(losses, key=lambda share: losses[share])


def _sent(view: View) -> tuple[Tensor, int]:
    """(N, *cut) of each victim, and of how many releases it is the mean."""
    releases = view.releases
    one_head = len(releases.head.unique()) == 1 and int(releases.head[0]) >= 0
    if not (view.adaptive and one_head):
        return releases.last(view.ids).smashed, 1
    rows, times = releases.all_of(view.ids)
    return rows.smashed.view(len(view.ids), times, *rows.smashed.shape[1:]).mean(1), times


class _Pipeline:
    """Means of ``times`` answers of the deployed pipeline; counts the queries."""

    def __init__(self, view: View, times: int, generator: torch.Generator) -> None:
        self._view, self._times, self._generator = view, times, generator
        self.queries = 0
        probe = view.aux.inputs[:2]
        first, second = (view.query(probe, generator) for _ in range(2))
        #: Whether asking again gives another answer, and this attacker makes use of it.
        self.fresh = view.adaptive and not torch.equal(first, second)
        self.queries += 2 * len(probe)

    def __call__(self, inputs: Tensor) -> Tensor:
        times = self._times if self.fresh else 1
        total = sum(
            (self._view.query(inputs, self._generator) for _ in range(times)),
            torch.zeros((len(inputs), *self._view.cut_shapes[0])),
        )
        self.queries += times * len(inputs)
        return total / times
