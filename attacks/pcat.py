# SPDX-License-Identifier: Apache-2.0
"""PCAT: a pseudo-client learns beside the real one, from the server's own body and a few labelled samples."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from splitguard.api import ATTACKS, BadSetting, Exchange, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.beside import Beside, Given
from splitguard.building.kept_features import KeptFeatures, nearest
from splitguard.building.late_start import LateStart
from splitguard.building.learners import Learners, rows_of
from splitguard.building.mmd import mk_mmd
from splitguard.building.optimise import optimise_inputs
from splitguard.building.pseudo_client import make_client, make_tail
from splitguard.building.shadow import latest
from splitguard.building.simulate import as_released, as_stated, as_trained


@ATTACKS.add("pcat")
@dataclass(kw_only=True)
class PCAT(Beside):
    """Trains a pseudo-client f~ on auxiliary samples through the body g as it is at each step, then inverts f~.

        min_f~  CE(t~(g(q(f~(x)))), y) + match MMD^2(q(f~(x)), z) + what the defense adds to a client's loss

    with (x, y) auxiliary samples, z the smashed data that has just arrived, q a fresh draw of the defense, and t~ a
    pseudo-tail that learns along where labels stay at the client; where they do not, y is what the defense states. Only
    f~ and t~ are trained. Then a decoder D is trained on pairs (q(f~(x)), x), and x_hat = D(z), refined, if asked, by
    descent on ``||q(f~(x)) - z||^2``.

    Where labels are seen, each auxiliary sample has the label of a victim in the batch, and training begins when the
    victims' smoothed loss has fallen from its highest value; else it begins at once. After the session f~ goes on with
    the final body and the smashed data that came last.

    An attacker that is not adaptive takes q for the identity; an adaptive one tries that for D, see `Beside.decoded`.
    Against a penalty it trains a second f~ without it, and x_hat is the mean of both.

    Args:
        live: learns while the session runs; off is the paper's vanilla-PCAT, with the final body alone.
        align: takes auxiliary samples with the labels of the batch, where those are seen; else at random.
        late: the share by which the victims' loss must have fallen before training begins, in [0, 1).
        steps: optimizer steps an exchange.
        finish: optimizer steps after the session.
        match: weight of the maximum mean discrepancy to the smashed data; 0 is the paper's loss.
        width: channels of f~.
        tail_width: hidden units of t~.
        lr: Adam's step size for f~ and t~.
        batch_size: rows a step after the session, and images a step of the decoder.
        keep: rows of smashed data that are kept for the steps after the session, the latest ones.
        decode: optimizer steps of the decoder, and of each one that is tried.
        decoder_width: its channels.
        finetune: evaluations of the refinement a victim; 0 leaves it out.
        aux: auxiliary samples, at most.

    Raises:
        BadSetting: for a setting out of its range.
        NotSupported: from `run`, if it has not watched a session.

    Source: Gao, Zhang, PCAT: Functionality and data stealing from split learning by pseudo-client attack, USENIX
    Security 2023. Differences: the paper uses no smashed data for f~ (``match: 0``), ends with the session unless it
    is vanilla (``finish: 0``), always refines, keeps the body in train mode, sets the late start by hand, and knows of
    no defense; its f~ are simpler and deeper variants of the victim's network, this one is made from two shapes.
    """

    live: bool = True
    align: bool = True
    late: float = 0.05
    match: float = 1.0
    width: int = 32
    tail_width: int = 64
    lr: float = 1e-3
    finetune: int = 0
    _late: LateStart = field(init=False, repr=False, compare=False)

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.BODY | Sees.AUX, (Party.SERVER,), uses=Sees.LABELS)
    version: ClassVar[int] = 3
    paper: ClassVar[str] = "Gao, Zhang, PCAT, USENIX Security 2023"
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"steps": 2, "finish": 40, "width": 16, "decode": 40, "batch_size": 16}
    )
    least: ClassVar[Mapping[str, float]] = {**Beside.least, "match": 0, "width": 1, "tail_width": 1, "finetune": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._late = LateStart(self.late)  # which checks the share
        if not self.lr > 0:
            raise BadSetting(f"{self.name}: lr must be positive; got {self.lr!r}")

    def networks(self, view: View, generator: torch.Generator) -> Learners:
        """f~, and t~ where there is a second cut."""
        self._late = LateStart(self.late)
        client = make_client(view.input_shape, view.cut_shapes[0], width=self.width, generator=generator)
        nets: dict[str, tuple[nn.Module, float]] = {"client": (client, self.lr)}
        if view.cut_shapes[1:]:
            tail = make_tail(view.cut_shapes[1], view.classes, width=self.tail_width, generator=generator)
            nets["tail"] = tail, self.lr
        return Learners(nets)

    def begins(self, exchange: Exchange, view: View) -> bool:
        """From the exchange on with which the victims' loss has fallen."""
        return self.live and self._late(exchange, self.body(view))

    def learn(self, nets: Learners, view: View, given: Given, generator: torch.Generator) -> None:
        """One step of f~ and t~."""
        aux, sent = view.aux[: self.aux], given.sent
        count = self.batch_size if sent is None else len(sent)
        labels = aux.labels if "tail" in nets else as_stated(view, aux.labels, generator)
        rows = _rows(labels, given.labels if self.align else None, count, generator)
        like = aux.inputs if sent is None else sent
        inputs, targets = aux.inputs[rows].to(like), labels[rows].to(like.device)
        made = nets["client"](inputs)
        shown = as_released(view, made, generator)
        out = given.body(shown)
        logits = nets["tail"](out) if "tail" in nets else out
        loss = cross_entropy(logits, targets) + as_trained(view, inputs, targets, made, generator)
        if sent is not None and self.match and min(len(shown), len(sent)) > 1:
            loss = loss + self.match * mk_mmd(shown, sent)
        nets.learn(*((loss, name) for name in ("client", "tail") if name in nets))

    def inverted(self, view: View, nets: Learners, generator: torch.Generator) -> tuple[Tensor, int, bool | None]:
        """What the decoder gives, refined if asked."""
        images, steps = self.decoded(view, nets, generator)
        if not self.finetune:
            return images, steps, None
        client, smashed = nets["client"], latest(view)[0].to(images)

        def loss(guess: Tensor) -> Tensor:
            made = client(guess)
            apart = view.defense.residual(made, smashed) if view.adaptive else made - smashed
            return apart.square().flatten(1).mean(1)

        found = optimise_inputs(loss, images, steps=self.finetune)
        return found.inputs, steps + found.steps, found.converged

    def state_dict(self) -> dict[str, Any]:
        """Of `Beside`, and how far the victims' loss has fallen."""
        return {**super().state_dict(), "late": list(self._late.signal)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`, after `start`."""
        super().load_state_dict(state)
        self._late.signal = list(state["late"])


def _rows(aux_labels: Tensor, labels: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    """(n,) positions of auxiliary samples: for each of ``labels`` (N,) one of that class, if there is any.

    Without labels, or where no class of the batch has an auxiliary sample, ``count`` at random.
    """
    if labels is not None:
        same = (labels.cpu()[:, None] == aux_labels.cpu()).float()
        same = same[same.any(1)]
        if len(same):
            return torch.multinomial(same, 1, generator=generator).flatten()
    return rows_of(len(aux_labels), count, generator)


@ATTACKS.add("pcat-labels")
@dataclass(kw_only=True)
class PCATLabels(PCAT):
    """The labels that the pseudo-tail of `PCAT` reads off, in u-shaped split learning.

        score(n, k) = log mean softmax_k t~(g_m(z_m))    over the ``neighbours`` rows m nearest to n

    with the final t~, and with the body g_m as it is when z_m is sent for the last time: a trained head moves on, and
    the body with it. A tail that was taught by a few samples errs on rows here and there, while the victims' own
    features lie together by class; so each row is told by its neighbours too, by the distance of features, itself among
    them. Features are kept in 64 MiB at most; the final body makes those of other rows.

    Args:
        neighbours: rows a label is read off, at most half of the rows there are to a class; 1 reads each by itself.
        live, align, late, steps, finish, match, width, tail_width, lr, batch_size, keep, aux: as in `PCAT`.
        decode, decoder_width, finetune: not used; they concern inputs.

    Source: as `PCAT`, section 4.3, which reads all labels with the final body, and each row by itself.
    """

    neighbours: int = 30
    _features: KeptFeatures = field(default_factory=KeptFeatures, init=False, repr=False, compare=False)

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(
        Sees.SMASHED | Sees.BODY | Sees.AUX | Sees.FEATURES, (Party.SERVER,), uses=Sees.LABELS
    )
    version: ClassVar[int] = 4
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({"steps": 5, "finish": 60, "width": 16, "batch_size": 16})
    least: ClassVar[Mapping[str, float]] = {**PCAT.least, "neighbours": 1}

    def start(self, view: View, generator: torch.Generator) -> None:
        """Draws the networks."""
        super().start(view, generator)
        self._features = KeptFeatures()

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        """Learns from what came, and keeps what the body makes of it."""
        super().observe(exchange, view, generator)
        self._features.add(exchange.ids, self.body(view)(exchange.smashed))

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,) and ``scores`` (N, K)."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        clients = self.finished(view, generator)
        with torch.no_grad():
            own = self.body(view)(view.releases.last(view.ids).smashed.to(view.aux.inputs))
            features = self._features.of(view.ids, own)
            near = nearest(features, len(own), min(self.neighbours, max(len(features) // (2 * view.classes), 1)))
            told = [nets["tail"](features).log_softmax(1)[near] for nets in clients]
        scores = torch.stack([of.logsumexp(1) - math.log(near.shape[1]) for of in told]).mean(0)
        return Guess(view.ids, labels=scores.argmax(1), scores=scores, budget=self.spent(view, clients, began))

    def state_dict(self) -> dict[str, Any]:
        """Of `PCAT`, and the features kept."""
        return {**super().state_dict(), "features": dict(self._features.rows)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`, after `start`."""
        super().load_state_dict(state)
        self._features.rows = dict(state["features"])


@ATTACKS.add("pcat-functionality")
@dataclass(kw_only=True)
class PCATFunctionality(PCAT):
    """Hands over the pseudo-client of `PCAT`, and its pseudo-tail, in place of the client's own layers.

    Of two, where the defense adds a penalty, the one with the lower cross-entropy on the auxiliary samples.

    Args:
        live, align, late, steps, finish, match, width, tail_width, lr, batch_size, keep, aux: as in `PCAT`.
        decode, decoder_width, finetune: not used; they concern inputs.

    Source: as `PCAT`, section 4.1.
    """

    goal: ClassVar[Goal] = Goal.FUNCTIONALITY

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``head`` (N, *in) to (N, *cut1), and with a second cut ``tail`` (N, *cut2) to (N, K)."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        clients, body, aux = self.finished(view, generator), self.body(view), view.aux[: self.aux]
        with torch.no_grad():
            made = [(nets, body(nets["client"](aux.inputs))) for nets in clients]
            scores = [nets["tail"](out) if "tail" in nets else out for nets, out in made]
            losses = [float(cross_entropy(score, aux.labels)) for score in scores]
        nets = clients[losses.index(min(losses))]
        tail = nets["tail"] if view.cut_shapes[1:] else None
        return Guess(view.ids, head=nets["client"], tail=tail, budget=self.spent(view, clients, began))
