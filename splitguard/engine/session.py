# SPDX-License-Identifier: Apache-2.0
"""One training of one deployment with one seed, and what each adversary may see of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from splitguard.data.rows import Data, Rows
from splitguard.engine.access import models_of
from splitguard.engine.cut import SplitModel
from splitguard.engine.defense import Alarm, Defense
from splitguard.engine.device import on_device
from splitguard.engine.goals import check_goal
from splitguard.engine.lineup import Lineup, send_lineup
from splitguard.engine.pretrain import aux_alone
from splitguard.engine.roles import Attack
from splitguard.engine.threat import Goal, Labels, Mode, Party, Profile, Sees, grants, on_the_wire, refusal
from splitguard.engine.training import Training
from splitguard.engine.transcript import Transcript
from splitguard.engine.updates import Updates
from splitguard.engine.victims import victims_of
from splitguard.engine.view import Known, View
from splitguard.engine.wire import Phase, Releases
from splitguard.errors import NotSupported
from splitguard.privacy.guarantee import Guarantee
from splitguard.seeding import generator

__all__ = ["Session"]


@dataclass
class Session:
    """A finished training with its transcript; `splitguard.engine.train` makes one.

    Attributes:
        data, mode, labels, cuts, training, seed: the deployment; ``cuts`` are resolved.
        cut_shapes: what crosses at each cut, without the batch.
        split: the trained network, in eval mode; in splitfed with the averaged head.
        defense: as it was trained with.
        transcript: what crossed the wire, in bounded memory. It holds no inputs.
        history: one mapping an epoch: epoch, loss, accuracy (None where it was not measured), and of two classes auc.
        accuracy: test accuracy of the deployed pipeline, the defense on.
        auc: the area under its ROC curve on the test rows; None for more than two classes.
        aux_accuracy: with a frozen head, the accuracy reached from auxiliary rows alone, without any private row.
        costs: client_params, server_params, client_flops, server_flops (forward, per sample), bytes_up, bytes_down,
            bytes_handover, train_seconds (from splitting to the last query, and what was done before an interruption).
        guarantees: what the defense guarantees.
        alarms: (step, alarm) of detectors.
        digest: hash of the final parameters, 16 hex digits.
    """

    data: Data
    mode: Mode
    labels: Labels
    cuts: tuple[str, ...]
    cut_shapes: tuple[tuple[int, ...], ...]
    training: Training
    seed: int
    split: SplitModel
    defense: Defense
    transcript: Transcript
    history: list[dict[str, float | int | None]]
    costs: Mapping[str, float]
    accuracy: float | None = None
    auc: float | None = None
    aux_accuracy: float | None = None
    guarantees: tuple[Guarantee, ...] = ()
    alarms: list[tuple[int, Alarm]] = field(default_factory=list)
    digest: str = ""
    _alone: SplitModel | None = field(default=None, init=False, repr=False, compare=False)

    def releases(self, phase: str = "training") -> int | None:
        """T: how often the most often sent victim of this phase was sent; None if none was."""
        rows = self.transcript.releases(phase)
        return None if rows is None else int(rows.ids.unique(return_counts=True)[1].max())

    def truth(self, ids: Tensor) -> Rows:
        """The rows behind these ids; only who scores a guess may ask.

        Raises:
            KeyError: for an id that is in no part of the data.
        """
        for part in (self.data.train, self.data.query, self.data.test):
            if bool(torch.isin(ids, part.ids).all()):
                return part.of(ids)
        raise KeyError("these ids do not all lie in one of train, query and test")

    def view(
        self,
        attack: Attack,
        *,
        phase: str = "training",
        profile: Profile = Profile.HEAD_KNOWN,
        adaptive: bool = True,
        known: int | None = None,
    ) -> View:
        """What the adversary of ``attack`` knows of this session, on the device that the session was to train on.

        Args:
            attack: its threat decides what is granted; seats other than AFTER count as active where they act. Its goal
                decides who the victims are: for labels, all rows of one client but those it knows; for membership, the
                `lineup`, whose rows were sent as queries.
            phase: ``training`` for member victims, ``query`` for query victims.
            profile: the strongest adversary considered.
            adaptive: whether the attack may use what it knows of the defense.
            known: rows a class whose labels an attack on labels is told; None for what the data says.

        Raises:
            NotSupported: with the reason, if no party can mount the attack here within ``profile``.
        """
        party, _, reason = refusal(
            attack.threat, attack.goal, mode=self.mode, labels=self.labels, profile=profile,
            labels_defended=self.defense.overrides("on_labels"),
        )  # fmt: skip
        if party is None:
            raise NotSupported(f"{attack.name or type(attack).__name__}: {reason}")
        check_goal(attack.goal, phase, self.data)
        if attack.goal is Goal.MEMBERSHIP:
            if party is not Party.SERVER:
                raise NotSupported("only the server sees rows of members and of strangers; a client knows its own")
            lined = self.lineup.ids
            sent = send_lineup(self) if len(lined) else None
            view = self.frame(attack, party, profile, Phase.QUERY, lined, adaptive, releases=sent)
        else:
            found = victims_of(self, attack.goal, party, phase, self.data.known if known is None else known)
            view = self.frame(
                attack, party, profile, Phase(phase), found.ids, adaptive,
                releases=found.releases, context=found.context, known=found.known,
            )  # fmt: skip
        return on_device(view, self.training.attack_device())

    def frame(
        self,
        attack: Attack,
        party: Party,
        profile: Profile,
        phase: Phase,
        victims: Tensor,
        adaptive: bool,
        *,
        releases: Releases | None = None,
        context: Releases | None = None,
        known: Known | None = None,
    ) -> View:
        """A view of what ``party`` may know with ``profile``, and of that only what the attack declares."""
        known_to_party = on_the_wire(party, self.mode, self.labels) | grants(profile, self.labels)
        granted = known_to_party & (attack.threat.needs | attack.threat.uses)
        candidates = None
        unnamed = phase is Phase.EVALUATION or attack.goal is Goal.MEMBERSHIP
        if len(victims) and Sees.CANDIDATES in granted and not unnamed:
            order = torch.randperm(len(victims), generator=generator(self.seed, "candidates", phase.value))
            held = self.data.train if phase is Phase.TRAINING else self.data.query
            candidates = held.of(victims).inputs[order]
        shield = self.defense.during(phase)
        return View(
            granted=granted,
            party=party,
            profile=profile,
            mode=self.mode,
            labels=self.labels,
            cuts=self.cuts,
            phase=phase,
            ids=victims,
            input_shape=self.data.input_shape,
            cut_shapes=self.cut_shapes,
            classes=self.data.classes,
            defense=shield if Sees.HEAD in granted else shield.outside(),
            models=models_of(self),
            adaptive=adaptive,
            attribute_classes=self.data.attribute_classes,
            _releases=releases,
            _context=context,
            _aux=self.data.aux,
            _class_prior=self.data.classes_prior,
            _known=known,
            _inputs=self._own_rows() if party is Party.CLIENT else None,
            _candidates=candidates,
            _updates=Updates.of(self.transcript.updates, self.training) if party is Party.FED_SERVER else None,
        )

    def choices(self, view: View) -> Tensor:
        """(N,): where among the view's candidates each victim stands; only who scores a guess may ask."""
        order = torch.randperm(len(view.ids), generator=generator(self.seed, "candidates", view.phase.value))
        return order.argsort()

    @property
    def lineup(self) -> Lineup:
        """Member and query victims in one row, for the goal membership; only who scores a guess may ask who is who."""
        releases = self.transcript.releases("training")
        return Lineup.of(self.data, self.seed, None if releases is None else releases.ids)

    def alone(self) -> SplitModel | None:
        """The best network without the wire: trained from scratch on auxiliary rows; see `aux_alone`. Made once."""
        if self._alone is None and len(self.data.aux):
            self._alone = aux_alone(self.split, self.data, self.training, self.seed)
        return self._alone

    def _own_rows(self) -> Rows:
        """Client 0's rows, their attributes left out; labels are -1 where the server owns them."""
        rows = self.data.train.of(self.data.clients[0])
        labels = rows.labels if self.labels is not Labels.SERVER else torch.full_like(rows.labels, -1)
        return Rows(rows.inputs, labels, rows.ids)

    def known(self, ids: Tensor, count: int) -> Known:
        """``count`` rows a class among ``ids``, or all there are, drawn from the seed; fewer are the first of more."""
        rows = self.data.train.of(ids)
        order = torch.randperm(len(ids), generator=generator(self.seed, "known"))
        firsts = [order[rows.labels[order] == c][:count] for c in range(self.data.classes)]
        chosen = torch.cat(firsts)
        return Known(rows.ids[chosen], rows.labels[chosen])

    def save(self, folder: Path) -> None:
        """Writes the session: network and transcript as safetensors, numbers as JSON; no code and no inputs."""
        from splitguard.engine.storage import save_session

        save_session(self, folder)

    @classmethod
    def load(cls, folder: Path, *, module: nn.Module, data: Data, defense: Defense | None = None) -> Session:
        """Reads a saved session.

        Args:
            folder: written by `save`.
            module: the network as the factory makes it; its weights are replaced.
            data: the same draw; another one is refused by its digest.
            defense: built afresh with the same settings.

        Raises:
            BadSetting: if the folder is not a session of this data and network.
        """
        from splitguard.engine.storage import load_session

        return load_session(folder, module=module, data=data, defense=defense)

    def results(self) -> dict[str, Any]:
        """The numbers of this session, as plain data."""
        return {
            "accuracy": self.accuracy,
            "auc": self.auc,
            "aux_accuracy": self.aux_accuracy,
            "costs": dict(self.costs),
            "history": self.history,
            "guarantees": [g.as_dict() for g in self.guarantees],
            "alarms": [(step, a.score, a.stop) for step, a in self.alarms],
            "digest": self.digest,
        }
