# SPDX-License-Identifier: Apache-2.0
"""From what a client sends the fed server to the gradient of its last layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from splitguard.engine.updates import Update
from splitguard.engine.view import View
from splitguard.errors import NotSupported
from splitguard.seeding import generator

__all__ = ["LastLayer", "last_layers", "logit_layer"]


@dataclass(frozen=True)
class LastLayer:
    """One client's last layer, whose outputs are the logits, at one averaging; K classes, D inputs h.

    The gradients are those of the mean loss over the update's n rows: with p the predictions,

        bias_grad_k = mean_n (p_nk - [k = y_n]),      weight_grad_kd = mean_n (p_nk - [k = y_n]) h_nd.

    Attributes:
        ids: (n,) the rows.
        weight, bias: (K, D) and (K,), or None without one; before the update.
        weight_grad, bias_grad: likewise. Of optimizers that rescale each entry, only the signs can be trusted.
        scaled: whether sizes can be trusted, too: plain SGD, with or without momentum and weight decay.
        exact: whether the above holds to rounding. Not so for several local steps, which are linearised: their mean
            gradient is taken to be the gradient of their rows at the layers before the first; nor where an optimizer
            carries something over from steps that are not on record.
    """

    ids: Tensor
    weight: Tensor
    bias: Tensor | None
    weight_grad: Tensor
    bias_grad: Tensor | None
    scaled: bool
    exact: bool

    @property
    def row_sums(self) -> Tensor:
        """(K,) sums of the weight gradient's rows; behind a ReLU, a class with a negative one is among the labels."""
        return self.weight_grad.sum(1)


def logit_layer(view: View) -> str:
    """The path, within the tail, of the linear layer whose outputs are the logits.

    It is found by what it does, not by its name: the output of each linear layer in turn is replaced by another one,
    and the layer is the one whose replacement comes out at the end, unchanged.

    Raises:
        NotSupported: if the tail has no such layer.
    """
    tail: nn.Module = view.tail().eval()
    layers: dict[str, nn.Linear] = {path: m for path, m in tail.named_modules() if isinstance(m, nn.Linear)}
    rows, draws = 4, generator(0, "logit-layer")
    into = torch.rand(rows, *view.cut_shapes[-1], generator=draws)
    into = into.to(next(tail.parameters(), into))
    for path, layer in layers.items():
        probe = torch.randn(rows, layer.out_features, generator=draws).to(into)
        handle = layer.register_forward_hook(lambda *_, probe=probe: probe)
        try:
            with torch.no_grad():
                out = tail(into)
        finally:
            handle.remove()
        if layer.out_features == view.classes and torch.equal(out, probe):
            return path
    raise NotSupported(
        f"the tail, from the cut {view.cuts[-1]} on, ends in no linear layer whose {view.classes} outputs are the "
        f"logits, so that its update cannot be read row by row; its linear layers: {', '.join(layers) or 'none'}. Cut "
        "earlier, so that the last linear layer is the client's"
    )


def last_layers(view: View) -> list[LastLayer]:
    """The last layer of each update of ``view.updates``, its optimizer's step undone; in their order.

    SGD is undone exactly: momentum and weight decay need the steps and the layers before, which are in the record
    where it begins with the session. Of Adam, AdamW and RMSprop the signs are exact at a client's first step alone, of
    RMSprop without momentum at each; always without weight decay, except AdamW's, which is taken out.

    Raises:
        NotSupported: as `logit_layer`; or if the learning rate was 0.
    """
    updates = view.updates
    path = logit_layer(view)
    undo: dict[tuple[int, str], _Undo] = {}
    found = []
    for update in updates.sent:
        before: dict[str, Tensor] = {}
        grads: dict[str, Tensor] = {}
        exact = True
        for name in ("weight", "bias"):
            key = f"tail.{path}.{name}"
            if key in update.before:
                own = undo.setdefault((update.client, name), _Undo(updates.optimizer, update.epoch == 0))
                before[name], grads[name] = update.before[key], own(update, key)
                exact = exact and own.exact
        found.append(
            LastLayer(
                ids=update.ids,
                weight=before["weight"],
                bias=before.get("bias"),
                weight_grad=grads["weight"],
                bias_grad=grads.get("bias"),
                scaled=updates.optimizer["name"] == "sgd",
                exact=exact,
            )
        )
    return found


class _Undo:
    """Turns one tensor's updates, in order of time, back into gradients.

    SGD's buffer b and the gradient g, the same at each of S local steps, give a change that is linear in both: it is
    solved for g, and b is carried over.

    Args:
        optimizer: name and settings.
        first: whether the first update contains the optimizer's first step.
    """

    def __init__(self, optimizer: Mapping[str, Any], first: bool) -> None:
        self._settings, self._first, self._known = optimizer, first, first
        self._buffer: Tensor | None = None
        self.exact = False

    def __call__(self, update: Update, key: str) -> Tensor:
        if update.lr == 0:
            raise NotSupported("the clients trained their layers with a learning rate of 0: updates tell nothing")
        before, name = update.before[key].double(), self._settings["name"]
        moved = (before - update.after[key].double()) / update.lr
        decay, steps = float(self._settings.get("weight_decay", 0)), len(update.batches)
        first, self._first = self._first, False
        if name == "sgd":
            return self._sgd(moved, steps, first) - decay * before
        if name == "adamw":
            moved -= steps * decay * before
        plain = name == "rmsprop" and not self._settings["momentum"]
        self.exact = steps == 1 and (first or plain) and (decay == 0 or name == "adamw")
        return moved

    def _sgd(self, moved: Tensor, steps: int, first: bool) -> Tensor:
        momentum, nesterov = float(self._settings["momentum"]), bool(self._settings["nesterov"])
        fresh = 1 - float(self._settings["dampening"])
        buffer = torch.zeros_like(moved) if self._buffer is None else self._buffer
        old, new = 1.0, 0.0  # the buffer after a step is old * buffer + new * gradient
        of_buffer = of_gradient = 0.0  # and so is the change until then
        for step in range(steps):
            old, new = (0.0, 1.0) if first and step == 0 else (momentum * old, momentum * new + fresh)
            of_buffer += momentum * old if nesterov else old
            of_gradient += 1 + momentum * new if nesterov else new
        gradient = (moved - of_buffer * buffer) / of_gradient if momentum else moved / steps
        self.exact = steps == 1 and (momentum == 0 or self._known)
        self._buffer = old * buffer + new * gradient
        self._known = steps == 1 and (self._known or not nesterov)
        return gradient
