# SPDX-License-Identifier: Apache-2.0
"""The defense's role: hooks around the cut, all of them identities here, and what they are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from splitguard.data.rows import Rows
from splitguard.engine.threat import Labels, Mode
from splitguard.engine.wire import Exchange, Phase
from splitguard.privacy.guarantee import Guarantee
from splitguard.registry import Spec

if TYPE_CHECKING:
    from splitguard.engine.cut import Cut, SplitModel

__all__ = ["Alarm", "Batch", "Context", "Defense", "Deployment"]


@dataclass(frozen=True)
class Context:
    """Which rows a defense's hook is looking at."""

    ids: Tensor
    client: int
    epoch: int
    step: int
    phase: Phase


@dataclass(frozen=True)
class Batch:
    """A client's own batch: inputs (N, *in), ids (N,), labels (N,) or None where the server owns them."""

    inputs: Tensor
    ids: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Alarm:
    """What a detector makes of an exchange: score from 0 (calm) to 1 (sure), and whether to stop the session."""

    score: float
    stop: bool = False


@dataclass(frozen=True)
class Deployment:
    """What a defense may know of where it is deployed, before training.

    Attributes:
        mode, labels, cuts: of the deployment; cuts are resolved names.
        input_shape, cut_shapes: without the batch.
        classes, batch_size, epochs, clients: as set.
        releases: T of a row by phase: a training row's sendings, and those of a query row.
        aux: auxiliary rows, which are not private.
        head: the head before training (pre-trained if it is frozen), in eval mode.
        head_frozen: the head is public and never trained on private rows.
        mixing: layers up to the cut that mix the rows of a batch as deployed.
    """

    mode: Mode
    labels: Labels
    cuts: tuple[str, ...]
    input_shape: tuple[int, ...]
    cut_shapes: tuple[tuple[int, ...], ...]
    classes: int
    batch_size: int
    epochs: int
    clients: int
    releases: Mapping[Phase, int]
    aux: Rows
    head: nn.Module
    head_frozen: bool = False
    mixing: tuple[str, ...] = ()


class Defense:
    """A defense; every hook is an identity, so the base class is the undefended baseline, exact to the bit.

    Subclasses are dataclasses whose fields are the settings. One instance serves one session: it may keep state.

    Class attributes:
        name, version, paper: as in `Attack`.
        per_sample: each row's release depends on that row alone. A defense that changes what is sent and does not
            declare this voids every guarantee in its stack.
        acts: where it acts, for lists: "smashed data", "training loss", "gradients", "labels", "cut".
        null: settings with which it does nothing, to the bit; None if there are none. `splitguard check` tries them.
        breakers: attacks, as they are written in a matrix file, that this defense must be measured against: the ones
            known to break it or its kind. ``attack: breakers`` in a matrix file stands for them.
    """

    name: ClassVar[str] = "none"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""
    per_sample: ClassVar[bool] = False
    acts: ClassVar[str] = "nowhere"
    null: ClassVar[Mapping[str, Any] | None] = None
    breakers: ClassVar[tuple[Spec, ...]] = ()

    def overrides(self, hook: str) -> bool:
        """Whether ``hook`` does anything here; the engine skips work around hooks that do not."""
        return getattr(type(self), hook) is not getattr(Defense, hook)

    def place(self, cuts: tuple[str, ...], legal: Sequence[Cut]) -> tuple[str, ...]:
        """Before splitting: the cuts to use in place of ``cuts``."""
        return cuts

    def wrap(self, split: SplitModel, generator: torch.Generator) -> SplitModel:
        """After splitting: the network with layers of its own added; they train with the head."""
        return split

    def modules(self) -> Mapping[str, nn.Module]:
        """Further networks it trains by itself; checkpoints and saved sessions hold them, costs do not count them."""
        return {}

    def bind(self, deployment: Deployment) -> None:
        """Learns where it is deployed; noise is calibrated here."""

    def optimizer(
        self, head: nn.Module, make: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer | None:
        """The head's optimizer; None leaves it to the session."""
        return None

    def sampler(self, rows: int, batch_size: int, generator: torch.Generator) -> Sequence[Tensor] | None:
        """The batches of one epoch as positions among ``rows`` rows; None leaves them to the session."""
        return None

    def adversary_step(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> None:
        """Before `penalty` and `on_send`: trains networks of its own on detached ``smashed``."""

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor | None:
        """A scalar added to the client's loss, of ``smashed`` before `on_send`; None for nothing."""
        return None

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N, *cut1), differentiable: what leaves the client in place of ``smashed``."""
        return smashed

    def on_return(self, grad: Tensor, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """At the label owner: per-sample gradients (N, *cut) to send in place of ``grad``."""
        return grad

    def on_labels(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N,) the labels to train with (and to send, where they are sent) in place of ``labels``."""
        return labels

    def label_law(self) -> Tensor | None:
        """(K, K) float64: row y is the distribution of what `on_labels` makes of the label y.

        For attackers who know the defense. None where labels are left as they are.
        """
        return None

    def probe(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor | None:
        """Labels (N,) to send in place of ``labels`` for a batch that only tests the server; None for no test.

        ``labels`` are those after `on_labels`. Nothing that the server sees tells such a batch from any other; head and
        tail do not train on it.
        """
        return None

    def alarm(self, exchange: Exchange) -> Alarm | None:
        """At the client, after each step, with what the client saw; None for defenses that do not detect."""
        return None

    def during(self, phase: Phase) -> Defense:
        """The defense as it acts on what is sent in ``phase``: itself, or the baseline where it stands aside."""
        return self

    def outside(self) -> Defense:
        """The defense as known to attackers who do not know the client's layers.

        Itself where all that it holds is public: settings, and what auxiliary rows taught it. One that trains networks
        of its own at the client answers without them.
        """
        return self

    def mean_release(self, smashed: Tensor) -> Tensor:
        """(N, *cut1), differentiable: E[released | smashed], the part of `on_send` without its noise."""
        return smashed

    def noise_std(self) -> float:
        """Standard deviation of the additive noise of one release, 0 for none."""
        return 0.0

    @property
    def noise_law(self) -> str:
        """``gaussian`` or ``laplace``, if a release is `mean_release` and independent noise of that law; else empty."""
        return ""

    def noise_information(self) -> float | None:
        """Fisher information of one coordinate of one release about its mean, in one over squared units of it.

        For noise of standard deviation s, ``1 / s^2`` if it is Gaussian, ``2 / s^2`` if Laplace; else None.
        """
        factor = {"gaussian": 1.0, "laplace": 2.0}.get(self.noise_law)
        return None if factor is None or self.noise_std() == 0 else factor / self.noise_std() ** 2

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """One fresh, differentiable draw of what `on_send` would release, for attackers who know the defense."""
        return smashed

    def residual(self, made: Tensor, sent: Tensor) -> Tensor:
        """(N, *cut1), differentiable in ``made``: what an attacker who knows the defense drives to zero.

        ``made`` is what the head makes of its guess, ``sent`` what crossed. A defense that hides which coordinates or
        places were sent (a mask, a permutation) answers here only for what ``sent`` tells, so that every attack that
        matches smashed data is aware of masks and of order.
        """
        return self.mean_release(made) - sent

    def restored(self, returned: Tensor, known: Tensor, labels: Tensor) -> Tensor:
        """(N, D): what an attacker who knows the defense reads in place of per-sample gradients ``returned`` (N, D).

        ``known`` (A, D) are those that were returned for rows whose ``labels`` (A,) it knows.
        """
        return returned

    def privacy(self) -> tuple[Guarantee, ...]:
        """What is guaranteed for this deployment; nothing unless proved."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Everything that `bind` and training changed beyond `modules`, as tensors and plain values.

        A fresh instance with the same settings that loads it must be as this one is, without `place` and `bind`; a
        saved session is read before `wrap`.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
