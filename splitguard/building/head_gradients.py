# SPDX-License-Identifier: Apache-2.0
"""Per-sample gradients of a head, by Opacus, and an optimizer that clips each one and adds noise to their sum."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import nn

from splitguard.errors import NotSupported

__all__ = ["HeadOptimizer", "need_rows_apart", "watch_rows"]


class HeadOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus is not typed
    """Steps on ``(sum_i clip_C(g_i) + N(0, (z C)^2 I)) / n``, with g_i the gradient of row i's own loss.

    ``clip_C`` is over all parameters together. n is the number of rows in this batch, the last and smaller one of an
    epoch too: who holds which batch is public, so that dividing by it gives nothing away, and without clip and noise
    the step is that of the batch's mean loss.

    Args:
        inner: steps on the gradients that are left.
        noise: z, the multiplier.
        clip: C, in units of a row's gradient.
        draws: the generator of the noise, asked for at each step.
    """

    def __init__(
        self, inner: torch.optim.Optimizer, *, noise: float, clip: float, draws: Callable[[], torch.Generator]
    ) -> None:
        super().__init__(inner, noise_multiplier=noise, max_grad_norm=clip, expected_batch_size=1)
        self._draws = draws

    def pre_step(self, closure: Any = None) -> Any:
        """Clips, adds noise, divides."""
        self.generator = self._draws()
        self.expected_batch_size = max(len(self.grad_samples[0]), 1)
        return super().pre_step(closure)


class _Uncopied(OrderedDict[int, Any]):
    """The hooks of a layer, which its deep copies do without.

    An attacker's copy of the head must neither collect gradients nor carry backward hooks, which torch.func refuses.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> OrderedDict[int, Any]:
        return OrderedDict()


def watch_rows(head: nn.Module) -> None:
    """From now on each backward pass leaves ``grad_sample`` (n, *shape) on each trained parameter of ``head``.

    The gradient that comes in must be of the batch's mean loss; it is multiplied by n. State dicts keep their names,
    and deep copies of the head are plain.
    """
    for layer in head.modules():
        layer._forward_hooks = _Uncopied(layer._forward_hooks)
        layer._backward_hooks = _Uncopied(layer._backward_hooks)
    GradSampleHooks(head, loss_reduction="mean")
    del head.autograd_grad_sample_hooks  # handles; with a copy of them on it, a copy of the head could not be watched


def need_rows_apart(head: nn.Module, name: str) -> None:
    """Refuses a head whose rows have no gradient of their own, or one that cannot be found.

    Raises:
        NotSupported: naming the layers, with what to do.
    """
    found = ModuleValidator.validate(head.train(), strict=False)
    if found:
        # Opacus' messages carry a note for its own users behind the first sentence.
        told = "; ".join(dict.fromkeys(str(error).split(". ")[0].rstrip(".") for error in found))
        layers = [path for path, layer in head.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        raise NotSupported(
            f"{name}: rows have no gradient of their own in {', '.join(layers) or 'this head'}: {told}. Use GroupNorm "
            "in place of BatchNorm (opacus.validators.ModuleValidator.fix does it), or cut before it"
        )
    plain = [path or "the head itself" for path, layer in head.named_modules() if _holds_loose(layer)]
    if plain:
        raise NotSupported(
            f"{name}: {', '.join(plain)} holds parameters outside of any layer, whose gradient by row is not known. Put "
            "them into a layer of their own, or cut before them"
        )


def _holds_loose(layer: nn.Module) -> bool:
    """A folder of layers that holds parameters itself: a stage of a split network, or a plain module."""
    return hasattr(layer, "_programs") | (type(layer) is nn.Module) and any(
        True for _ in layer.parameters(recurse=False)
    )
