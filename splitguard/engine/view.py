# SPDX-License-Identifier: Apache-2.0
"""What one adversary may know: a transcript masked by the threat table. Reading more raises, by name."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from splitguard.data.rows import Rows
from splitguard.engine.threat import Labels, Mode, Party, Profile, Sees
from splitguard.engine.updates import Updates
from splitguard.engine.wire import Phase, Releases, State
from splitguard.errors import MissingKnowledge

if TYPE_CHECKING:
    from splitguard.engine.defense import Defense

__all__ = ["Known", "Models", "View"]

T = TypeVar("T")
#: Channels of `Releases` and the kind of knowledge that each one is.
CHANNELS = {
    "labels": Sees.LABELS,
    "features": Sees.FEATURES,
    "returned_grad": Sees.RETURNED_GRAD,
    "cut_grad": Sees.CUT_GRAD,
}


@dataclass(frozen=True)
class Known:
    """Rows of the context whose labels the attacker knows: ids (K*k,) and labels (K*k,)."""

    ids: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Models:
    """How a view gets at networks; each call hands out a copy in eval mode that needs no gradient.

    Attributes:
        head, tail: the client's layers at a snapshot, or at the end of training for None.
        body: the server's layers at the end of training (live, for an attack beside the session).
        blank_head: the head's architecture with weights drawn afresh.
        query: inputs (N, *in) through head and defense as deployed, to smashed data (N, *cut1).
        state: a snapshot of the client's layers, keys beginning with ``head.`` or ``tail.``.
    """

    head: Callable[[int | None], nn.Module]
    body: Callable[[], nn.Module]
    tail: Callable[[int | None], nn.Module]
    blank_head: Callable[[torch.Generator], nn.Module]
    query: Callable[[Tensor, torch.Generator], Tensor]
    state: Callable[[int], State]


@dataclass
class View:
    """What the adversary of one attack on one session knows. Public facts are plain attributes.

    Attributes:
        granted: what it may read; everything else raises `MissingKnowledge`.
        party, profile: who it is.
        mode, labels, cuts: of the deployment.
        phase: why the victims' rows were sent.
        ids: (N,) the victims, in the order in which a guess answers.
        input_shape, cut_shapes, classes: shapes without the batch, and the number of classes.
        adaptive: whether the attack may use what it knows of the defense.
        attribute_classes: how many values the rows' attributes have, where the data has any: ``aux.attributes`` are in
            0..attribute_classes-1.
        defense: the defense's code and settings, not its random draws, and without HEAD no layers of its own.
    """

    granted: Sees
    party: Party
    profile: Profile
    mode: Mode
    labels: Labels
    cuts: tuple[str, ...]
    phase: Phase
    ids: Tensor
    input_shape: tuple[int, ...]
    cut_shapes: tuple[tuple[int, ...], ...]
    classes: int
    defense: Defense
    models: Models
    adaptive: bool = True
    attribute_classes: int | None = None
    _releases: Releases | None = field(default=None, repr=False)
    _context: Releases | None = field(default=None, repr=False)
    _aux: Rows | None = field(default=None, repr=False)
    _class_prior: Tensor | None = field(default=None, repr=False)
    _known: Known | None = field(default=None, repr=False)
    _inputs: Rows | None = field(default=None, repr=False)
    _candidates: Tensor | None = field(default=None, repr=False)
    _updates: Updates | None = field(default=None, repr=False)
    _asked: set[Sees] = field(default_factory=set, repr=False, compare=False)

    @property
    def asked(self) -> Sees:
        """All that was read of it so far, by whoever holds it or a changed copy of it."""
        return functools.reduce(operator.or_, self._asked, Sees.NOTHING)

    def sees(self, what: Sees) -> bool:
        """Whether all of ``what`` is granted."""
        return what & ~self.granted is Sees.NOTHING

    def need(self, what: Sees) -> None:
        """Raises `MissingKnowledge`, naming what is missing, unless all of ``what`` is granted."""
        missing = what & ~self.granted
        if missing is not Sees.NOTHING:
            raise MissingKnowledge(
                f"the {self.party} with profile {self.profile} in {self.mode} (labels: {self.labels}) is not granted: "
                f"{missing}. It sees: {self.granted}."
            )
        self._asked.add(what)

    def _read(self, what: Sees, value: T | None, noun: str) -> T:
        self.need(what)
        if value is None:
            raise MissingKnowledge(f"this session recorded no {noun}")
        return value

    @property
    def releases(self) -> Releases:
        """Every release of the victims, channels that are not granted masked to None."""
        return self._masked(self._read(Sees.SMASHED, self._releases, "releases of these victims"))

    @property
    def context(self) -> Releases:
        """All rows of one client for one epoch, masked likewise; label attacks read it."""
        return self._masked(self._read(Sees.SMASHED, self._context, "context rows"))

    def shows(self, channel: str) -> bool:
        """Whether a channel of `CHANNELS` is granted, by itself or as the gradient of the label owner."""
        label_grad = "cut_grad" if self.party is Party.CLIENT else "returned_grad"
        return self.sees(CHANNELS[channel]) or (channel == label_grad and self.sees(Sees.LABEL_GRAD))

    def _masked(self, rows: Releases) -> Releases:
        return rows.masked(name for name in CHANNELS if not self.shows(name))

    def label_grad(self, rows: Releases) -> Tensor:
        """(R, *cut), per sample: the gradient that comes from the owner of labels this adversary is not told."""
        self.need(Sees.LABEL_GRAD)
        grad = rows.cut_grad if self.party is Party.CLIENT else rows.returned_grad
        return self._read(Sees.LABEL_GRAD, grad, "gradients for these rows")

    @property
    def aux(self) -> Rows:
        """The attacker's own samples."""
        return self._read(Sees.AUX, self._aux, "auxiliary rows")

    @property
    def class_prior(self) -> Tensor:
        """(K,): class frequencies among the attacker's own samples; NaN without any."""
        return self._read(Sees.AUX, self._class_prior, "class prior")

    @property
    def known(self) -> Known:
        """A few rows of the context with their labels, k a class."""
        return self._read(Sees.KNOWN, self._known, "rows with known labels")

    @property
    def known_read(self) -> int:
        """How many rows with known labels were read so far: all of ``known``, or 0 where nobody asked for them."""
        return len(self._known.ids) if self._known is not None and Sees.KNOWN in self.asked else 0

    @property
    def inputs(self) -> Rows:
        """The attacking client's own rows; their labels are -1 unless it owns them."""
        return self._read(Sees.INPUTS, self._inputs, "inputs of the attacking client")

    @property
    def candidates(self) -> Tensor:
        """(M, *in): in the game "which of these was sent", each victim is one of them."""
        return self._read(Sees.CANDIDATES, self._candidates, "candidates")

    @property
    def updates(self) -> Updates:
        """What the clients sent the fed server in one epoch."""
        return self._read(Sees.UPDATES, self._updates, "updates to the fed server")

    def head(self, at: int | None = None) -> nn.Module:
        """The client's head at snapshot ``at``, or as deployed after training."""
        self.need(Sees.HEAD)
        return self.models.head(at)

    def head_states(self, at: Tensor) -> State:
        """The head's parameters and buffers at each snapshot in ``at`` (R,), stacked to (R, *shape): for vmap."""
        self.need(Sees.HEAD)
        states = {int(i): self.models.state(int(i)) for i in at.unique()}
        names = [n for n in next(iter(states.values())) if n.startswith("head.")]
        return {n.removeprefix("head."): torch.stack([states[int(i)][n] for i in at]) for n in names}

    def body(self) -> nn.Module:
        """The server's layers."""
        self.need(Sees.BODY)
        return self.models.body()

    def tail(self, at: int | None = None) -> nn.Module:
        """The client's last layers (u-shaped)."""
        self.need(Sees.TAIL)
        return self.models.tail(at)

    def blank_head(self, generator: torch.Generator) -> nn.Module:
        """The head's architecture with fresh random weights, in train mode, gradients on."""
        self.need(Sees.ARCHITECTURE)
        return self.models.blank_head(generator)

    def query(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """The deployed pipeline, defense included, on the attacker's own inputs (N, *in): smashed data (N, *cut1)."""
        self.need(Sees.QUERY)
        return self.models.query(inputs, generator)
