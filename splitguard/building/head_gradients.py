# SPDX-License-Identifier: Apache-2.0
"""Per-sample gradients of a head, by Opacus, and an optimizer that clips each one and adds noise to their sum."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from opacus.grad_sample.functorch import prepare_layer
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from splitguard.engine.cut import Stage
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
        # Opacus' secure mode adds up four draws: one alone, in float32, has no tails beyond 5.77 standard deviations.
        super().__init__(inner, noise_multiplier=noise, max_grad_norm=clip, expected_batch_size=1, secure_mode=True)
        self._draws = draws

    def pre_step(self, closure: Any = None) -> Any:
        """Clips, adds noise, divides."""
        self.generator = self._draws()
        self.expected_batch_size = max(len(self.grad_samples[0]), 1)
        return super().pre_step(closure)


class _Rows(GradSampleHooks):  # type: ignore[misc]  # Opacus is not typed
    """Opacus' hooks, but the backward ones sit on the layers' outputs.

    On the layers, torch warns where a layer's input needs no gradient, as the first one's here, and activations that
    write in place do not go with them.
    """

    def add_hooks(self, *, loss_reduction: str, batch_first: bool, force_functorch: bool) -> None:
        """A forward hook on each layer with parameters of its own."""
        for layer in self.iterate_submodules(self._module):
            if type(layer) not in self.GRAD_SAMPLERS:
                prepare_layer(layer, batch_first=batch_first)
            layer._forward_hooks = _Uncopied(layer._forward_hooks)
            layer.register_forward_hook(self._went)
        self.enable_hooks()

    def _went(self, layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        if layer.training and out.requires_grad:
            self.capture_activations_hook(layer, list(given), out)
            out.register_hook(partial(self._came_back, layer))

    def _came_back(self, layer: nn.Module, grad: Tensor) -> None:
        self.capture_backprops_hook(layer, None, (grad,), loss_reduction=self.loss_reduction, batch_first=True)


class _Uncopied(OrderedDict[int, Any]):
    """The hooks of a layer, which its deep copies do without: an attacker's copy of the head collects no gradients."""

    def __deepcopy__(self, memo: dict[int, Any]) -> OrderedDict[int, Any]:
        return OrderedDict()


def watch_rows(head: nn.Module) -> None:
    """From now on each backward pass leaves ``grad_sample`` (n, *shape) on each trained parameter of ``head``.

    The gradient that comes in must be of the batch's mean loss; it is multiplied by n. State dicts keep their names,
    deep copies of the head are plain, and in eval mode nothing is kept.
    """
    _Rows(head, loss_reduction="mean")


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
            f"{name}: {', '.join(plain)} holds parameters outside of any layer, whose gradient by row is not known. "
            "Put them into a layer of their own, or cut before them"
        )


def _holds_loose(layer: nn.Module) -> bool:
    """A folder of layers, of a stage of a split network say, that holds parameters itself."""
    folder = isinstance(layer, Stage) or type(layer) is nn.Module
    return folder and any(True for _ in layer.parameters(recurse=False))
