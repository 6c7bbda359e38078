# SPDX-License-Identifier: Apache-2.0
"""Inputs by a decoder trained on what the deployed pipeline makes of the attacker's own images."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from splitguard.api import ATTACKS, Attack, BadSetting, Budget, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.decoders import Decoder, make_decoder
from splitguard.building.inversion import Sent, side_by_side
from splitguard.building.linear import CrossFitted
from splitguard.building.local import LocalInverse, TwoScaleInverse
from splitguard.errors import one_of
from splitguard.metrics import ssim

Reads = Literal["mean", "each"]
#: Folds of the linear guess, and rows each is fitted to at most.
FOLDS, ROWS = 3, 600
#: Images asked twice to see whether the pipeline draws anything; a few, since a discrete draw often repeats itself.
PROBED = 16


@ATTACKS.add("inverse-network")
@dataclass(kw_only=True)
class InverseNetwork(Attack):
    """Trains a decoder D on pairs (q(x), x) of auxiliary images, q the deployed pipeline with its defense.

        min_D  mean ||D(q(x)) - x||^2 + ssim (1 - SSIM(D(q(x)), x)),    then    x_hat = D(z)

    D improves on a linear guess, fitted by ridge regression, which alone recovers most at an early cut and costs a
    second. q is asked afresh in each epoch, so that D sees new noise each time and tends to the posterior mean. Where
    one head made all releases of a victim, D is trained on means of T answers and reads the mean of the T releases;
    where the head moved between them, it reads the last one, which the deployed head resembles most. A tenth of the
    auxiliary images is kept aside, and the decoder of the best epoch on them is used.

    An attacker that is not adaptive asks once, trains on that one draw of the noise, and reads the last release. Where
    the pipeline draws noise, an adaptive one trains that decoder too, and uses the one that does better on the images
    kept aside; both are counted.

    With ``reads: each`` an adaptive attacker that has the mean of T releases tries a third decoder, which reads them
    side by side, stacked along the first axis of the cut, and is trained on as many fresh answers, L the loss above:

        min_D  mean L(D(S(q_1(x), ..., q_T(x))), x),    then    x_hat = D(S(z_1, ..., z_T))

    with S sorting the T values of each coordinate (`side_by_side`), and of more than 8 releases the last 8. Of Gaussian
    noise the mean tells all that the releases tell; of masks, signs or stochastic rounding it does not: the largest of
    T masked values is what was masked, their mean is not. The linear guess below this decoder reads the mean, since the
    best linear guess from draws of one law is one from their mean. Where it does no better it is not used.

    With ``local`` a second linear guess is fitted, at each pixel from the smashed data about it and then from all of it
    (`TwoScaleInverse`), and taken where its error on the images kept aside is the smaller. What one convolution alone
    made is so inverted nearly exactly; deeper it need not gain anything, and its fit takes longer.

    Args:
        steps: optimizer steps, at most.
        width: channels of the decoder.
        blocks: its residual blocks at the resolution of the cut; 8 with width 64 is N8C64, the strongest of ResSFL.
        lr: Adam's largest step size, reached after a tenth of the steps and falling to 0 along a half cosine.
        ssim: weight of the second term; 0 is the paper's loss.
        batch_size: auxiliary images a step.
        aux: auxiliary images, at most.
        reads: the ``mean`` of a victim's releases by one head, or ``each`` of them too.
        local: whether the second linear guess is tried, where the cut's places stand for squares of pixels and have at
            most 256 channels.

    Source: He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019 (the black-box attack).
    Differences: the linear guess, the second term, fresh noise, several releases, early stopping on images kept aside;
    residual blocks are from Li et al., ResSFL, CVPR 2022, here without normalisation; ``reads: each``, for which no
    paper is known: the one above has one release.
    """

    steps: int = 300
    width: int = 16
    blocks: int = 1
    lr: float = 5e-3
    ssim: float = 0.1
    batch_size: int = 32
    aux: int = 2000
    reads: Reads = field(default="mean", metadata={"added": True})
    local: bool = field(default=False, metadata={"added": True})

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.QUERY | Sees.AUX, (Party.SERVER,))
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019"
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"steps": 60})

    def __post_init__(self) -> None:
        one_of("inverse-network", "reads", self.reads, get_args(Reads))
        for name, least in (("steps", 1), ("width", 1), ("blocks", 0), ("ssim", 0), ("batch_size", 1), ("aux", 10)):
            if getattr(self, name) < least:
                raise BadSetting(f"inverse-network: {name} must be at least {least}; got {getattr(self, name)!r}")
        if not self.lr > 0:
            raise BadSetting(f"inverse-network: lr must be positive; got {self.lr!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """(N, *in) in [0, 1]."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        known = view.aux.inputs[torch.randperm(len(view.aux), generator=generator)[: self.aux]]
        # As wide as what was sent, but never narrower than images are.
        known = known.to(torch.promote_types(known.dtype, view.releases.smashed.dtype))
        if len(known) < 10:
            raise BadSetting(f"inverse-network needs at least 10 auxiliary images; got {len(known)}")
        aside = max(len(known) // 10, 4)
        held, used = known[:aside], known[aside:]
        ask = _Pipeline(view, generator)
        fresh = view.adaptive and ask.draws
        tried = [self._train(Sent.of(view), used, held, ask, fresh, generator)]
        if fresh:
            tried.append(self._train(Sent.of(replace(view, adaptive=False)), used, held, ask, False, generator))
        if fresh and self.reads == "each" and (each := Sent.stacked(view)).apart:
            tried.append(self._train(each, used, held, ask, True, generator))  # last, so that the others are as ever
        found = min(tried, key=lambda trained: trained.loss)
        steps = sum(trained.steps for trained in tried)
        with torch.no_grad():
            images = [found(part) for part in torch.split(found.sent.smashed.to(known), 256)]
        return Guess(
            view.ids,
            images=torch.cat(images).clamp(0, 1),
            budget=Budget(steps=steps, queries=ask.queries, aux=len(known), seconds=time.perf_counter() - began),
            settings={
                "best_epoch": found.epoch,
                f"releases_{'apart' if found.sent.apart else 'averaged'}": found.sent.times,
                "fresh_noise": found.fresh,
            },
        )

    def _train(
        self, sent: Sent, used: Tensor, held: Tensor, ask: _Pipeline, fresh: bool, generator: torch.Generator
    ) -> _Trained:
        """The decoder of the best epoch, trained on answers asked afresh in each epoch, or once."""
        decoder = make_decoder(
            tuple(sent.smashed.shape[1:]),
            ask.view.input_shape,
            width=self.width,
            blocks=self.blocks,
            generator=generator,
        )
        times = sent.times if fresh else 1
        tests, answers = ask(held, times, sent.apart), ask(used, times, sent.apart)
        linear = self._linear((sent.mean(answers), used), (sent.mean(tests), held))
        guesses = linear.of_rows(sent.mean(answers))
        decoder.to(answers).standardise(answers)
        optimizer = torch.optim.Adam(decoder.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.steps + 1, pct_start=0.1)
        below = linear(sent.mean(tests))
        best, least, chosen, epoch, step = copy.deepcopy(decoder), self._held_out(decoder, below, tests, held), 0, 0, 0
        while step < self.steps:
            if epoch and fresh:
                answers = ask(used, times, sent.apart)
                guesses = linear.of_rows(sent.mean(answers))
            order = torch.randperm(len(used), generator=generator)
            for batch in torch.split(order, self.batch_size)[: self.steps - step]:
                loss = self._loss(decoder(answers[batch], guesses[batch]), used[batch])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
                step += 1
            epoch += 1
            reached = self._held_out(decoder, below, tests, held)
            if reached < least:
                best, least, chosen = copy.deepcopy(decoder), reached, epoch
        return _Trained(best.eval(), linear, sent, fresh=fresh, steps=step, epoch=chosen, loss=least)

    def _linear(self, fitted: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor]) -> CrossFitted:
        """The linear guess below the decoder, from smashed data and the images behind them."""
        answers, images = fitted
        fold = torch.arange(len(images)) % FOLDS
        found = CrossFitted.fit(answers, images, fold, rows=ROWS)
        if not self.local or not LocalInverse.fits(tuple(answers.shape[1:]), tuple(images.shape[1:])):
            return found
        two_scale = functools.partial(TwoScaleInverse.fit, rows=ROWS)
        other = CrossFitted.fit(answers, images, fold, rows=len(images), inverse=two_scale)
        return min(found, other, key=lambda linear: float(mse_loss(linear(held[0]), held[1])))

    def _loss(self, images: Tensor, truth: Tensor) -> Tensor:
        loss = mse_loss(images, truth)
        return loss + self.ssim * (1 - ssim(images.clamp(0, 1), truth).mean().to(loss)) if self.ssim else loss

    def _held_out(self, decoder: Decoder, guesses: Tensor, smashed: Tensor, images: Tensor) -> float:
        with torch.no_grad():
            return float(self._loss(decoder(smashed, guesses), images))


class _Trained(NamedTuple):
    """A decoder and the linear guess below it, what they read, and how they came about.

    ``loss`` is that on images kept aside.
    """

    decoder: Decoder
    linear: CrossFitted
    sent: Sent
    fresh: bool
    steps: int
    epoch: int
    loss: float

    def __call__(self, smashed: Tensor) -> Tensor:
        """(N, *in), not clipped, for smashed data laid out as ``sent``."""
        images: Tensor = self.decoder(smashed, self.linear(self.sent.mean(smashed)))
        return images


class _Pipeline:
    """Answers of the deployed pipeline, their mean or side by side; counts the queries."""

    def __init__(self, view: View, generator: torch.Generator) -> None:
        self.view, self._generator = view, generator
        probe = view.aux.inputs[:PROBED]
        first, second = (view.query(probe, generator) for _ in range(2))
        #: Whether asking again gives another answer.
        self.draws = not torch.equal(first, second)
        self.queries = 2 * len(probe)

    def __call__(self, inputs: Tensor, times: int, apart: bool) -> Tensor:
        """(N, *cut), each the mean of ``times`` answers; or (N, times c_1, c_2, ...), the answers ``apart``."""
        self.queries += times * len(inputs)
        answers = (self.view.query(inputs, self._generator) for _ in range(times))
        return side_by_side(torch.stack(list(answers), 1)) if apart else functools.reduce(torch.add, answers) / times
