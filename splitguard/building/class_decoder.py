# SPDX-License-Identifier: Apache-2.0
"""A decoder that begins at the mean image of a sample's class, whatever the scale of what it decodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splitguard.building.decoders import make_decoder
from splitguard.data.rows import Rows

__all__ = ["ClassDecoder"]

#: Weight of the newest batch in the running statistics.
MOMENTUM = 0.1
#: Added to variances, in squared units of the smashed data.
LEAST = 1e-5


class ClassDecoder(nn.Module):
    """Smashed data (N, *cut), and labels (N,) or None, to images (N, C, H, W), near [0, 1] but not clipped to it.

    `Decoder` on top of the mean auxiliary image of the label's class, or of all classes where it is told no label: it
    learns what the smashed data say beyond that. They are standardised first, one mean and spread a channel of maps,
    else one a unit: by their own batch in train mode, by what `watch` has seen lately in eval mode. So simulated and
    true smashed data, each of one batch, differ in neither when it learns, nor in use.

    Args:
        cut_shape: of the smashed data.
        aux: the attacker's own rows; a class without any counts as their mean.
        classes: K.
        width, blocks: of `Decoder`.
        generator: of the weights.

    Raises:
        BadSetting: if the inputs are not images.
    """

    mean: Tensor
    var: Tensor
    watched: Tensor
    images: Tensor

    def __init__(
        self,
        cut_shape: tuple[int, ...],
        aux: Rows,
        classes: int,
        *,
        width: int,
        blocks: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        shape = tuple(aux.inputs.shape[1:])
        self.decoder = make_decoder(cut_shape, shape, width=width, blocks=blocks, generator=generator)
        self.over = (0, 2, 3) if len(cut_shape) == 3 else (0,)
        kept = (cut_shape[0], 1, 1) if len(cut_shape) == 3 else cut_shape
        self.register_buffer("mean", torch.zeros(1, *kept))
        self.register_buffer("var", torch.ones(1, *kept))
        self.register_buffer("watched", torch.tensor(False))
        own = [aux.inputs[aux.labels == k] for k in range(classes)]
        overall = aux.inputs.mean(0)
        # The last one serves who is told no label.
        self.register_buffer("images", torch.stack([*(o.mean(0) if len(o) else overall for o in own), overall]))

    def watch(self, smashed: Tensor) -> None:
        """Takes mean and spread of a batch of the victims into the running ones."""
        mean, var = self._statistics(smashed)
        share = MOMENTUM if bool(self.watched) else 1.0
        self.mean.lerp_(mean, share)
        self.var.lerp_(var, share)
        self.watched.fill_(True)

    def forward(self, smashed: Tensor, labels: Tensor | None) -> Tensor:
        """(N, C, H, W)."""
        mean, var = self._statistics(smashed) if self.training else (self.mean, self.var)
        of = torch.full((len(smashed),), -1, device=smashed.device) if labels is None else labels
        out: Tensor = self.decoder((smashed - mean) / (var + LEAST).sqrt(), self.images[of])
        return out

    def _statistics(self, smashed: Tensor) -> tuple[Tensor, Tensor]:
        return smashed.mean(self.over, keepdim=True), smashed.var(self.over, unbiased=False, keepdim=True)
