# SPDX-License-Identifier: Apache-2.0
"""Puts one session together: parties with their stages, the wire, and the attacks that watch or act."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Sequence

import torch
from torch import nn

from splitguard.engine.deployed import Deployed
from splitguard.engine.fed import FedServer
from splitguard.engine.goals import check_goal
from splitguard.engine.links import Link
from splitguard.engine.loop import Loop
from splitguard.engine.modes import SplitRound
from splitguard.engine.observers import Observer
from splitguard.engine.parties import Client, Server, Stage, Surroundings
from splitguard.engine.roles import ClientAttack, OnlineAttack, ServerAttack
from splitguard.engine.session import Session
from splitguard.engine.stored import Stored
from splitguard.engine.threat import Goal, Mode, Profile, Sees, refusal
from splitguard.engine.wire import Phase
from splitguard.errors import NotSupported
from splitguard.registry import settings_of
from splitguard.seeding import generator, system_generator

__all__ = ["make_loop"]


def make_loop(
    session: Session,
    around: Surroundings,
    active: ServerAttack | ClientAttack | None,
    beside: Sequence[OnlineAttack],
    profile: Profile,
    *,
    adaptive: bool,
) -> Loop:
    """The parties, the wire and the observers of one session."""
    data, training, network, defense = session.data, session.training, session.split, session.defense

    def observer(attack: OnlineAttack) -> Observer:
        party, _, reason = refusal(
            attack.threat,
            attack.goal,
            mode=session.mode,
            labels=session.labels,
            profile=profile,
            labels_defended=defense.overrides("on_labels"),
        )
        if party is None:
            raise NotSupported(f"{attack.name or type(attack).__name__}: {reason}")
        if isinstance(attack, ServerAttack) and Sees.SMASHED not in attack.threat.needs:
            who = attack.name or type(attack).__name__
            raise NotSupported(
                f"{who}: smashed data arrive in the server's seat; an attack that sits there says so, by Sees.SMASHED "
                "in its threat"
            )
        check_goal(attack.goal, Phase.TRAINING, data)
        # Who was trained on is what a membership attack is after: it hears of its victims when the training is over.
        victims = data.members[:0] if attack.goal is Goal.MEMBERSHIP else data.members
        view = session.frame(attack, party, profile, Phase.TRAINING, victims, adaptive)
        return Observer(attack, view, generator(session.seed, "attack", attack.name), network.body)

    watching = [observer(a) for a in beside]
    acting = observer(active) if active is not None else None
    clients = _clients(session, around)
    server = Server(Stage(network.body, "body", training), around)
    link = Link()
    repeatable = training.noise == "seeded"
    noise = generator(session.seed, "defense", device=around.device) if repeatable else system_generator(around.device)
    frozen = training.head == "frozen"
    in_seat = acting if isinstance(active, ServerAttack) else None
    first = clients[0]
    stages = (first.head.module, network.body) + ((first.tail.module,) if first.tail else ())
    log = session.transcript.updates
    loop = Loop(
        data=data,
        mode=session.mode,
        labels=session.labels,
        training=training,
        seed=session.seed,
        clients=clients,
        server=server,
        fed=FedServer(clients, link, log, head_frozen=frozen) if session.mode is Mode.SPLITFED else None,
        link=link,
        defense=defense,
        noise=noise,
        transcript=session.transcript,
        round=SplitRound(
            server,
            link,
            session.labels,
            defense=defense,
            generator=noise,
            active=in_seat,
            head_frozen=frozen,
            stored=Stored() if training.release == "once" else None,
        ),
        around=around,
        observers=[*watching, *([acting] if acting else [])],
        deployed=Deployed(stages, None if session.mode is Mode.CENTRALIZED else defense, noise, around.device),
        fingerprint=_fingerprint(session, active, beside, profile, adaptive=adaptive),
    )
    if acting is not None and isinstance(active, ClientAttack):
        if defense.overrides("optimizer"):
            raise NotSupported(
                f"{active.name or type(active).__name__} replaces the gradients of client 0's own layers, and "
                f"{defense.name} steps with gradients of its own: one would undo the other. Take one of them out"
            )
        clients[0].intercept = lambda grads: acting.client_grads(grads, loop.step)
    return loop


def _clients(session: Session, around: Surroundings) -> list[Client]:
    """The clients with their rows; in splitfed each has layers of its own, else all share what they hand on."""
    network, training, defense = session.split, session.training, session.defense

    def stages(*, own: bool) -> tuple[Stage, Stage | None]:
        head = copy.deepcopy(network.head) if own else network.head
        tail = copy.deepcopy(network.tail) if own else network.tail

        def make(module: nn.Module) -> torch.optim.Optimizer | None:
            return defense.optimizer(module, lambda ps: training.make_optimizer("head", ps))

        return Stage(head, "head", training, make), Stage(tail, "tail", training) if tail is not None else None

    shared = stages(own=False)
    parts = (session.data.train.ids,) if session.mode is Mode.CENTRALIZED else session.data.clients
    clients = []
    for number, ids in enumerate(parts):
        head, tail = stages(own=True) if session.mode is Mode.SPLITFED and number > 0 else shared
        clients.append(Client(number, session.data.train.of(ids), head, tail, around))
    return clients


def _fingerprint(
    session: Session, active: object | None, beside: Sequence[object], profile: Profile, *, adaptive: bool
) -> str:
    """What a checkpoint must agree on with the session that goes on from it; the initial weights it replaces."""
    parts = [p for owner in (session.defense, active, *beside) for p in getattr(owner, "defenses", (owner,))]
    facts = [
        session.data.digest,
        session.mode,
        session.labels,
        session.cuts,
        dataclasses.asdict(session.training),
        session.seed,
        [
            (type(p).__name__, getattr(p, "version", None), settings_of(p) if dataclasses.is_dataclass(p) else {})
            for p in parts
        ],
        (profile, adaptive) if active or beside else None,
        {k: tuple(v.shape) for k, v in session.split.state_dict().items()},
    ]
    return hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode()).hexdigest()[:16]
