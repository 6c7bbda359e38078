# SPDX-License-Identifier: Apache-2.0
"""The parties that train, one step each: clients with head (and tail), the server with the body."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from splitguard.data.rows import Rows
from splitguard.engine.defense import Batch, Context, Defense
from splitguard.engine.links import pooled
from splitguard.engine.training import Training
from splitguard.engine.wire import State
from splitguard.seeding import drawing

__all__ = ["Client", "Server", "Stage", "Surroundings"]


class Surroundings:
    """What all parties of a session share: device, precision, and where random layers draw from.

    Args:
        device: where the networks live.
        precision: of `Training`.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self.device = device
        self._autocast = precision == "bfloat16"

    @contextlib.contextmanager
    def forward(self, draws: int) -> Iterator[None]:
        """A block in which layers draw from the seed ``draws``, under autocast if asked for."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(drawing(draws, self.device))
            if self._autocast:
                stack.enter_context(torch.autocast(self.device.type, dtype=torch.bfloat16))
            yield


class Stage:
    """Layers with their optimizer and schedule; layers without trained parameters get neither."""

    def __init__(
        self,
        module: nn.Module,
        part: str,
        training: Training,
        make: Callable[[nn.Module], torch.optim.Optimizer | None] | None = None,
    ) -> None:
        self.module = module
        self.part = part
        trained = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = (make(module) if make else None) if trained else None
        if trained and self.optimizer is None:
            self.optimizer = training.make_optimizer(part, trained)
        self.schedule = training.make_schedule(part, self.optimizer) if self.optimizer else None

    def zero(self) -> None:
        """Drops the gradients."""
        if self.optimizer:
            self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """One optimizer step."""
        if self.optimizer:
            self.optimizer.step()

    def end_epoch(self) -> None:
        """One schedule step."""
        if self.schedule:
            self.schedule.step()

    def handed_on(self) -> State:
        """The tensors that the next client needs to go on: layers and optimizer state."""
        out: State = dict(self.module.state_dict())
        if self.optimizer:
            for number, slots in self.optimizer.state_dict()["state"].items():
                out |= {f"optimizer/{number}/{k}": v for k, v in slots.items() if isinstance(v, Tensor)}
        return out

    def state_dict(self) -> dict[str, Any]:
        """Layers, optimizer and schedule, for checkpoints."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "schedule": self.schedule.state_dict() if self.schedule else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.module.load_state_dict(state["module"])
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule:
            self.schedule.load_state_dict(state["schedule"])


class Client:
    """Owns rows, the head, and in u-shaped the tail.

    Attributes:
        number: counted from 0.
        rows: its training rows.
        head, tail: shared with the other clients where they hand them on, its own where they are averaged.
    """

    def __init__(self, number: int, rows: Rows, head: Stage, tail: Stage | None, around: Surroundings) -> None:
        self.number, self.rows, self.head, self.tail = number, rows, head, tail
        self._around = around
        self._sent: Tensor | None = None
        self._penalty: Tensor | None = None
        self.intercept: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None

    def layers(self) -> State:
        """A copy of head and tail as they are now, keys beginning with ``head.`` and ``tail.``."""
        out = {f"head.{k}": v.detach().clone() for k, v in self.head.module.state_dict().items()}
        if self.tail:
            out |= {f"tail.{k}": v.detach().clone() for k, v in self.tail.module.state_dict().items()}
        return out

    def send(self, batch: Batch, ctx: Context, defense: Defense, generator: torch.Generator, draws: int) -> Tensor:
        """Smashed data of a batch, after the defense; the graph is kept for `receive`."""
        self.head.zero()
        with self._around.forward(draws):
            smashed = self.head.module(batch.inputs)
        smashed = smashed.float() if smashed.dtype is torch.bfloat16 else smashed
        defense.adversary_step(batch, smashed.detach(), generator)
        self._penalty = defense.penalty(batch, smashed, generator)
        self._sent = defense.on_send(smashed, ctx, generator)
        return self._sent

    def pass_over(self, stored: Tensor) -> None:
        """In place of `send`, where the server goes on with what it has: nothing leaves, nothing is trained here."""
        self._sent, self._penalty = stored, None

    def loss(self, features: Tensor, labels: Tensor, draws: int) -> tuple[Tensor, Tensor, Tensor]:
        """U-shaped: the loss at the tail, the gradient to return, and the logits; the tail's gradients are ready."""
        assert self.tail is not None
        self.tail.zero()
        leaf = features.requires_grad_()
        with self._around.forward(draws):
            # An in-place first layer must not write into what arrived.
            logits = self.tail.module(leaf.clone())
            value = cross_entropy(logits, labels)
        value.backward()
        assert leaf.grad is not None
        return value.detach(), leaf.grad, logits.detach()

    def receive(self, cut_grad: Tensor | None, *, train: bool = True) -> None:
        """Ends the step: backward through what was sent, and one step of each optimizer unless ``train`` is off."""
        sent, penalty = self._sent, self._penalty
        self._sent = self._penalty = None
        assert sent is not None
        roots: list[tuple[Tensor, Tensor | None]] = []
        if cut_grad is not None and sent.requires_grad:
            roots.append((sent, cut_grad))
        if penalty is not None and penalty.requires_grad:
            roots.append((penalty, None))
        if roots:
            torch.autograd.backward([t for t, _ in roots], [g for _, g in roots])
        if not train:
            self.head.zero()
            return
        if self.intercept is not None:
            owned = [p for s in (self.head, self.tail) if s for p in s.module.parameters() if p.grad is not None]
            for p, new in zip(owned, self.intercept([p.grad for p in owned if p.grad is not None]), strict=True):
                p.grad = new.detach().reshape(p.shape).to(p)
        self.head.step()
        if self.tail:
            self.tail.step()


class Server:
    """Owns the body, and the labels unless they stay at the client."""

    def __init__(self, body: Stage, around: Surroundings) -> None:
        self.body = body
        self._around = around
        self._leaf: Tensor | None = None
        self._out: Tensor | None = None

    def forward(self, parts: list[Tensor], draws: int, *, need_grad: bool) -> Tensor:
        """The body's output for the pooled smashed data: logits, or features for the tail."""
        self.body.zero()
        self._leaf = pooled(parts).requires_grad_(need_grad)
        with self._around.forward(draws):
            # An in-place first layer must not write into what arrived, and a leaf cannot be changed in place.
            self._out = self.body.module(self._leaf.clone())
        return self._out

    def loss(self, labels: Tensor, draws: int) -> Tensor:
        """The pooled mean loss at the body's logits; backward follows."""
        assert self._out is not None
        with self._around.forward(draws):
            value = cross_entropy(self._out, labels)
        self._out = value
        return value.detach()

    def backward(self, returned: Tensor | None = None) -> Tensor | None:
        """Backward from the loss, or from the returned gradient; one optimizer step; the cut gradient."""
        out, leaf = self._out, self._leaf
        self._out = self._leaf = None
        assert out is not None
        assert leaf is not None
        if out.requires_grad:
            out.backward(returned)
            self.body.step()
        return leaf.grad
