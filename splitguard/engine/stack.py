# SPDX-License-Identifier: Apache-2.0
"""Several defenses as one: every hook in list order, and of their guarantees what stands beside the others."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from splitguard.engine.defense import Alarm, Batch, Context, Defense, Deployment
from splitguard.engine.sent_through import SentThrough
from splitguard.engine.wire import Exchange, Phase
from splitguard.errors import BadSetting, NotSupported
from splitguard.privacy.guarantee import Guarantee, compose

if TYPE_CHECKING:
    from splitguard.engine.cut import Cut, SplitModel

__all__ = ["Stack"]

T = TypeVar("T")


@dataclass
class Stack(Defense):
    """Applies ``defenses`` in list order; each one sees what those before it leave.

    An empty stack is the undefended baseline, and a stack of one is that one, to the bit: the hooks of all parts draw
    from the same generator, one after another. Stacks within it are laid out flat.

    What adds up: penalties, and the variances of noise that nothing is applied to afterwards. What only one part may
    answer: `optimizer`, `sampler`, `probe`. Of alarms the worst counts, and one that stops is enough. For `bind`, the
    head that a part is shown ends with the parts before it, so that what it measures there (a clip, say) fits what it
    is given to send.

    Guarantees (see `privacy`): along one channel what comes after an accounted release is post-processing, so the
    smaller epsilon stands, never a sum; statements about different channels stand side by side.

    Args:
        defenses: in the order in which they are applied.

    Raises:
        BadSetting: if one of them is not a defense, or is there twice: an instance serves once.
    """

    defenses: Sequence[Defense] = ()

    name: ClassVar[str] = "stack"

    def __post_init__(self) -> None:
        flat: list[Defense] = []
        for part in self.defenses:
            if not isinstance(part, Defense):
                raise BadSetting(f"a stack is made of defenses; got {part!r}, a {type(part).__name__}")
            flat.extend(part.defenses if isinstance(part, Stack) else [part])
        if len({id(part) for part in flat}) < len(flat):
            raise BadSetting("a stack holds the same instance twice; build one for each place, as they keep state")
        self.defenses = tuple(flat)

    def overrides(self, hook: str) -> bool:
        """Whether any part does anything in ``hook``."""
        return any(part.overrides(hook) for part in self.defenses)

    def place(self, cuts: tuple[str, ...], legal: Sequence[Cut]) -> tuple[str, ...]:
        """Each part moves the cuts that the ones before it chose."""
        for part in self.defenses:
            cuts = part.place(cuts, legal)
        return cuts

    def wrap(self, split: SplitModel, generator: torch.Generator) -> SplitModel:
        """Each part adds its layers to the network that it is given."""
        for part in self.defenses:
            split = part.wrap(split, generator)
        return split

    def modules(self) -> Mapping[str, nn.Module]:
        """The networks of all parts; names begin with the part's position, so that they are unique."""
        return {f"{i}_{name}": net for i, part in enumerate(self.defenses) for name, net in part.modules().items()}

    def bind(self, deployment: Deployment) -> None:
        """Binds each part; the head that it is shown ends with those before it."""
        sent: list[Defense] = []
        for part in self.defenses:
            head = SentThrough(deployment.head, sent).eval() if sent else deployment.head
            part.bind(dataclasses.replace(deployment, head=head))
            sent = [*sent, part] if part.overrides("on_send") else sent

    def optimizer(
        self, head: nn.Module, make: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer | None:
        """Of the one part that has its own."""
        return self._only("an optimizer for the head", lambda part: part.optimizer(head, make))

    def sampler(self, rows: int, batch_size: int, generator: torch.Generator) -> Sequence[Tensor] | None:
        """Of the one part that has its own."""
        return self._only("the batches", lambda part: part.sampler(rows, batch_size, generator))

    def probe(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor | None:
        """Of the one part that has its own."""
        return self._only("a probe", lambda part: part.probe(labels, ctx, generator))

    def _only(self, what: str, ask: Callable[[Defense], T | None]) -> T | None:
        """The one answer; raises NotSupported, with the names, where there are several."""
        answers = [(part.name, answer) for part in self.defenses if (answer := ask(part)) is not None]
        if len(answers) > 1:
            names = " and ".join(name for name, _ in answers)
            raise NotSupported(f"{names} each bring {what}, and a deployment has one; take one of them out of the list")
        return answers[0][1] if answers else None

    def adversary_step(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> None:
        """Of every part, in turn."""
        for part in self.defenses:
            part.adversary_step(batch, smashed, generator)

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor | None:
        """The sum over the parts that have one; all of ``smashed`` before any part's `on_send`."""
        found = [p for part in self.defenses if (p := part.penalty(batch, smashed, generator)) is not None]
        return sum(found[1:], found[0]) if found else None

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """Part after part."""
        for part in self.defenses:
            smashed = part.on_send(smashed, ctx, generator)
        return smashed

    def on_return(self, grad: Tensor, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """Part after part."""
        for part in self.defenses:
            grad = part.on_return(grad, labels, ctx, generator)
        return grad

    def on_labels(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """Part after part."""
        for part in self.defenses:
            labels = part.on_labels(labels, ctx, generator)
        return labels

    def restored(self, returned: Tensor, known: Tensor, labels: Tensor) -> Tensor:
        """Part after part, the last one first."""
        for part in reversed(self.defenses):
            returned, known = (part.restored(rows, known, labels) for rows in (returned, known))
        return returned

    def label_law(self) -> Tensor | None:
        """The product of the laws of the parts that change labels; None if one of these states none."""
        laws = [part.label_law() for part in self.defenses if part.overrides("on_labels")]
        known = [law for law in laws if law is not None]
        return functools.reduce(torch.matmul, known) if known and len(known) == len(laws) else None

    def alarm(self, exchange: Exchange) -> Alarm | None:
        """The highest score of any part, and a stop if any part says so; None if none detects."""
        found = [a for part in self.defenses if (a := part.alarm(exchange)) is not None]
        return Alarm(max(a.score for a in found), any(a.stop for a in found)) if found else None

    def during(self, phase: Phase) -> Defense:
        """Each part as it acts in ``phase``."""
        return self._of([part.during(phase) for part in self.defenses])

    def outside(self) -> Defense:
        """Each part as it is known from outside."""
        return self._of([part.outside() for part in self.defenses])

    def _of(self, parts: Sequence[Defense]) -> Defense:
        return self if all(map(operator.is_, parts, self.defenses)) else Stack(parts)

    def mean_release(self, smashed: Tensor) -> Tensor:
        """Part after part; the exact mean unless a part bends the noise of one before it (a clip after noise, say)."""
        for part in self.defenses:
            smashed = part.mean_release(smashed)
        return smashed

    def noise_std(self) -> float:
        """Of the noise that crosses as it was added: ``sqrt(sum sigma^2)`` over parts with no `on_send` after them."""
        last = max((i for i, part in enumerate(self.defenses) if part.overrides("on_send")), default=0)
        return math.hypot(*(part.noise_std() for part in self.defenses[last:]))

    @property
    def noise_law(self) -> str:
        """That of the last part that changes what is sent; empty where one before it adds noise, too."""
        *before, last = [Defense(), *(part for part in self.defenses if part.overrides("on_send"))]
        return "" if any(part.noise_std() > 0 for part in before) else last.noise_law

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """Part after part."""
        for part in self.defenses:
            smashed = part.released_like(smashed, generator)
        return smashed

    def privacy(self) -> tuple[Guarantee, ...]:
        """What stands of the parts' guarantees, by `splitguard.privacy.guarantee.compose`.

        A part that changes what is sent, before or after the accounted release, and does not declare itself per-sample
        may tell one row through another: it voids the guarantees about inputs and about weights, and is named. Labels
        are never shown to these hooks, so a guarantee about labels stays; but `on_return` is shown them, so a guarantee
        that rests on noise added to returned gradients is void where a later part acts there. A part that changes what
        is sent by networks it trains during the session carries what those learnt from raw rows: the epsilon of the
        whole view goes, those of a row's own messages stay.
        """
        if len(self.defenses) == 1:
            return self.defenses[0].privacy()
        stated: list[Guarantee] = []
        for i, part in enumerate(self.defenses):
            others = [p for j, p in enumerate(self.defenses) if j != i]
            after = [p.name for p in self.defenses[i + 1 :] if p.overrides("on_return")]
            stated.extend(_beside(guarantee, others, after) for guarantee in part.privacy())
        return compose(stated)

    def residual(self, made: Tensor, sent: Tensor) -> Tensor:
        """That of the last part that changes what is sent, given the mean of what those before it make."""
        last = max((i for i, part in enumerate(self.defenses) if part.overrides("on_send")), default=-1)
        if last < 0:
            return made - sent
        for part in self.defenses[:last]:
            made = part.mean_release(made)
        return self.defenses[last].residual(made, sent)

    def state_dict(self) -> dict[str, Any]:
        """The state of each part, under its position."""
        return {str(i): part.state_dict() for i, part in enumerate(self.defenses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for i, part in enumerate(self.defenses):
            part.load_state_dict(state[str(i)])


def _sends(part: Defense) -> bool:
    """Whether ``part`` changes what is sent."""
    return part.overrides("on_send") or part.overrides("wrap")


def _beside(guarantee: Guarantee, others: Sequence[Defense], after: Sequence[str]) -> Guarantee:
    """What is left of one part's guarantee beside the ``others``, of which some act ``after`` it on what returns."""
    if guarantee.channel == "labels":
        if after and guarantee.sensitivity is not None:
            return guarantee.voided(f"{' and '.join(after)} may read the labels again, after the noise")
        return guarantee
    weighing = [p.name for p in others if p.overrides("penalty")]
    if weighing and guarantee.channel == "head-weights":
        return guarantee.voided(f"{' and '.join(weighing)} may bring a row into the gradients of others")
    others = [p for p in others if _sends(p)]
    mixing = [p.name for p in others if not p.per_sample]
    if mixing:
        return guarantee.voided(f"{' and '.join(mixing)} may mix the rows of a batch in what is sent")
    learning = [p.name for p in others if p.overrides("adversary_step") or p.modules()]
    if learning and guarantee.epsilon is not None:
        why = f"{' and '.join(learning)} sends through networks that learn from raw rows"
        return dataclasses.replace(guarantee, epsilon=None, exclusions=(why, *guarantee.exclusions))
    return guarantee
