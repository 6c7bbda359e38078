# SPDX-License-Identifier: Apache-2.0
"""The inversion attacker that a client simulates, in order to train against it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from splitguard.building.decoders import Decoder, make_decoder
from splitguard.seeding import generator as seeded

__all__ = ["SimulatedAttacker", "mean_image"]


class _Inverter(nn.Module):
    """A `Decoder` around one fixed image, with its output mapped into (0, 1)."""

    around: Tensor

    def __init__(self, decoder: Decoder, around: Tensor, cut_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("around", around.float().clamp(0.01, 0.99).logit()[None])
        # In the shape that they will have, so that a checkpoint fits before the first step.
        shape = (1, cut_shape[0], *[1] * (len(cut_shape) - 1)) if decoder.spatial else (1, *cut_shape)
        decoder.mean, decoder.std = torch.zeros(shape), torch.ones(shape)

    def forward(self, smashed: Tensor) -> Tensor:
        """Images (N, *in) in (0, 1), in float32."""
        out: Tensor = self.decoder(smashed.float(), self.around.expand(len(smashed), *self.around.shape[1:]))
        return out.sigmoid()


class SimulatedAttacker:
    """A decoder from smashed data to inputs with an Adam of its own; its weights are fixed except in `learn`.

    It standardises by the batch that it last learnt from, as the head under it moves: a head cannot get rid of it by
    scaling its output. Work on other devices moves it there.

    Args:
        cut_shape, input_shape: without the batch; inputs are images (C, H, W) in [0, 1].
        around: (C, H, W), public: what it answers before it has learnt anything, as `mean_image`.
        width, blocks: channels and residual blocks, as in `Decoder`.
        lr: Adam's step size.
        generator: draws the weights.

    Raises:
        BadSetting: if inputs are not images.
    """

    def __init__(
        self,
        cut_shape: tuple[int, ...],
        input_shape: tuple[int, ...],
        *,
        around: Tensor,
        width: int,
        blocks: int,
        lr: float,
        generator: torch.Generator,
    ) -> None:
        # Decoders are made on the CPU; the session's generator may live elsewhere.
        seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        own = seeded(seed, "simulated attacker")
        decoder = make_decoder(cut_shape, input_shape, width=width, blocks=blocks, generator=own)
        self.net: nn.Module = _Inverter(decoder, around, cut_shape)
        self._decoder = decoder
        self._optimizer = torch.optim.Adam(self.net.parameters(), lr=lr)

    def images(self, smashed: Tensor) -> Tensor:
        """(N, *in) in (0, 1), differentiable in ``smashed`` (N, *cut) and in nothing else."""
        net = self.net.to(smashed.device)
        # Copies: clients of one round all send before the first goes backward, and it learns from each sending.
        weights = {name: p.detach().clone() for name, p in net.named_parameters()}
        out: Tensor = functional_call(net, weights, (smashed,))
        return out

    def learn(self, smashed: Tensor, inputs: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        """One step on ``loss(images, inputs)``, a scalar; ``smashed`` is taken without its graph."""
        smashed = smashed.detach()
        if len(smashed) > 1:
            self._decoder.standardise(smashed.float())
        with torch.enable_grad():
            value = loss(self.net.to(smashed.device)(smashed), inputs.float())
        torch.autograd.backward(value)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's; weights are kept with the networks of the defense."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; what is loaded stays the caller's own."""
        self._optimizer.load_state_dict(copy.deepcopy(dict(state)))


def mean_image(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(C, H, W): the mean of (N, C, H, W), or mid-grey of that shape where there are none."""
    return images.float().mean(0) if len(images) else torch.full(shape, 0.5)
