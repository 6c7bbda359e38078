# SPDX-License-Identifier: Apache-2.0
"""The interface of a notebook: names in place of objects, for one deployment without a matrix file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from splitguard.api import ATTACKS, build_defense
from splitguard.data import load as load_data
from splitguard.data.rows import Data
from splitguard.engine.defense import Defense
from splitguard.engine.progress import bar
from splitguard.engine.roles import Attack, ClientAttack, Guess, OnlineAttack, ServerAttack
from splitguard.engine.session import Session
from splitguard.engine.threat import Labels, Mode, Profile
from splitguard.engine.train import train as train_module
from splitguard.engine.training import Training
from splitguard.engine.view import View
from splitguard.errors import BadSetting, near_miss
from splitguard.models import make_model

__all__ = ["Trained", "attack", "defense", "train"]

Model = str | Mapping[str, Any] | nn.Module


@dataclass
class Trained(Session):
    """A session that scores guesses: what a notebook works with. It knows the truth, and shows it to no attack."""

    _asked: tuple[Attack, View] | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, session: Session) -> Trained:
        """The same session."""
        return cls(**{f.name: getattr(session, f.name) for f in fields(session) if f.init})

    def view(
        self,
        attack: Attack,
        *,
        phase: str = "training",
        profile: Profile = Profile.HEAD_KNOWN,
        adaptive: bool = True,
        known: int | None = None,
    ) -> View:
        """As `Session.view`; `score` takes a guess to answer the latest one."""
        view = super().view(attack, phase=phase, profile=profile, adaptive=adaptive, known=known)
        self._asked = (attack, view)
        return view

    def score(self, guess: Guess, *, attack: Attack | None = None, view: View | None = None) -> dict[str, Any]:
        """Compares a guess with the truth.

        Args:
            guess: made from a view of this session.
            attack: which made it; by default that of the latest call of `view`. Given with ``view``, or not at all.
            view: what it was made from; likewise.

        Returns:
            the measures of the goal, as in results.csv: for inputs ssim, lpips, psnr, mse, reid, blind, leakage with
            its interval over victims, and more. Missing values are None.

        Raises:
            BadSetting: if no view was asked for, only one of the two is given, or the guess answers for other rows.
        """
        from splitguard.matrix.judge import judge

        if (attack is None) != (view is None):
            missing = "attack" if attack is None else "view"
            raise BadSetting(f"score takes attack and view together; {missing} is missing")
        asked = self._asked if attack is None or view is None else (attack, view)
        if asked is None:
            raise BadSetting("score compares a guess with the view it was made from: call view first, or give both")
        return dict(judge(self, *asked, guess).values)


def attack(name: str, **settings: Any) -> Attack:
    """The attack of that name; unknown names and settings answer with near misses."""
    return ATTACKS.build(name, **settings)


def defense(spec: Any) -> Defense:
    """A fresh defense: a name, ``{name: {setting: value}}``, a list of these (applied in order), or ``"none"``."""
    return build_defense(spec)


def train(
    *,
    model: Model = "lenet",
    data: str | Mapping[str, Any] | Data | torch.utils.data.Dataset[Any] = "faces",
    mode: str = "vanilla",
    cut: str | Sequence[str] | None = None,
    labels: str | None = None,
    defense: Any = "none",
    training: Training | Mapping[str, Any] | None = None,
    seed: int = 0,
    active: ServerAttack | ClientAttack | None = None,
    beside: Sequence[OnlineAttack] = (),
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> Trained:
    """Trains one deployment.

    Args:
        model: a registered or torchvision name, ``{name: {setting: value}}``, ``{"factory": "module:function"}``, or an
            ``nn.Module``, which is trained itself.
        data: a name, a mapping as in a matrix file, a torch ``Dataset``, or `Data`.
        mode: vanilla, u-shaped, splitfed or centralized.
        cut: a layer, or two; `legal_cuts` lists them.
        labels: sent, server or client; None means client with two cuts and sent with one.
        defense: a spec as in `defense`, or a fresh `Defense`.
        training: `Training`, or its settings.
        seed: of the draw of the data, the weights and the training.
        active: an attack in the server's or in client 0's seat.
        beside: attacks that watch.
        checkpoint: a file to save to and to go on from.
        progress: shows a bar.

    Raises:
        SplitguardError: before anything is trained, if the pieces do not fit.
    """
    rows = data if isinstance(data, Data) else load_data(data, seed=seed)
    if isinstance(model, nn.Module):
        module = model
    else:
        module = make_model(model, input_shape=rows.input_shape, classes=rows.classes, seed=seed)
    settings = training if isinstance(training, Training) else Training.parse(training or {})
    with bar(f"{mode}", shown=progress) as report:
        session = train_module(
            module,
            rows,
            mode=Mode(_one_of(mode, Mode, "mode")),
            cut=cut if cut is None or isinstance(cut, str) else tuple(cut),
            labels=None if labels is None else Labels(_one_of(labels, Labels, "labels")),
            defense=defense if isinstance(defense, Defense) else build_defense(defense),
            training=settings,
            seed=seed,
            active=active,
            beside=beside,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            progress=report,
        )
    return Trained.of(session)


def _one_of(name: str, kind: type[Mode] | type[Labels], what: str) -> str:
    if name not in list(kind):
        raise BadSetting(near_miss(name, [str(k) for k in kind], what=what))
    return name
