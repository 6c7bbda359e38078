# SPDX-License-Identifier: Apache-2.0
"""Small defenses of which the tests of a stack make stacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitguard.api import DEFENSES
from splitguard.engine.defense import Alarm, Batch, Context, Defense
from splitguard.engine.wire import Exchange
from splitguard.privacy.guarantee import Guarantee

__all__ = ["Apart", "Detector", "Labels", "Learner", "Mixer", "Scale", "Shift", "Wrapper", "gaussian"]


def gaussian(**settings: Any) -> Defense:
    return DEFENSES.build({"gaussian": settings})


@dataclass
class Scale(Defense):
    """Every hook times ``by``."""

    by: float = 2.0
    name: ClassVar[str] = "scale"
    per_sample: ClassVar[bool] = True

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return smashed * self.by

    def on_return(self, grad: Tensor, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return grad * self.by

    def on_labels(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return labels * int(self.by)

    def mean_release(self, smashed: Tensor) -> Tensor:
        return smashed * self.by

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return smashed * self.by

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor | None:
        return smashed.sum() * self.by

    def place(self, cuts: tuple[str, ...], legal: Sequence[Any]) -> tuple[str, ...]:
        return tuple(f"{c}*{self.by:g}" for c in cuts)

    def wrap(self, split: Any, generator: torch.Generator) -> Any:
        return f"{split}*{self.by:g}"


class Apart(Scale):
    """A `Scale` that leaves cuts and networks as they are."""

    place, wrap = Defense.place, Defense.wrap


@dataclass
class Shift(Scale):
    """As `Scale`, plus 1."""

    name: ClassVar[str] = "shift"

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return smashed + 1

    def on_return(self, grad: Tensor, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return grad + 1

    def on_labels(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return labels + 1

    def mean_release(self, smashed: Tensor) -> Tensor:
        return smashed + 1

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return smashed + 1


class Mixer(Defense):
    """Sends the batch mean."""

    name: ClassVar[str] = "mixer"

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return smashed.mean(0, keepdim=True).expand_as(smashed)


class Wrapper(Defense):
    """Adds layers, and does not say that they keep rows apart."""

    name: ClassVar[str] = "wrapper"

    def wrap(self, split: Any, generator: torch.Generator) -> Any:
        return split


class Learner(Defense):
    """Sends through a network that it trains itself."""

    name: ClassVar[str] = "learner"
    per_sample: ClassVar[bool] = True

    def __init__(self) -> None:
        self.net = nn.Linear(2, 2)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"net": self.net}

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return smashed


class Detector(Defense):
    """Raises one alarm, brings one of everything that only one may bring, and counts what it saw."""

    name: ClassVar[str] = "detector"

    def __init__(self, score: float = 0.5, *, stop: bool = False) -> None:
        self.told, self.seen = Alarm(score, stop), 0

    def alarm(self, exchange: Exchange) -> Alarm | None:
        return self.told

    def adversary_step(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> None:
        self.seen += 1

    def optimizer(self, head: nn.Module, make: Callable[..., Any]) -> torch.optim.Optimizer | None:
        return torch.optim.SGD(head.parameters(), lr=1.0)

    def sampler(self, rows: int, batch_size: int, generator: torch.Generator) -> Sequence[Tensor] | None:
        return [torch.arange(rows)]

    def probe(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor | None:
        return ctx.ids * 0

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]


class Labels(Defense):
    """Guarantees something about labels."""

    name: ClassVar[str] = "labels"

    def privacy(self) -> tuple[Guarantee, ...]:
        return (
            Guarantee(
                channel="labels",
                epsilon_rows=1.0,
                epsilon=1.0,
                epsilon_query=None,
                delta=0.0,
                adjacency="replace-one",
                sensitivity=None,
                T=1,
                adversary="the server",
                mechanism="randomised response",
                exclusions=("queries carry no labels",),
            ),
        )
