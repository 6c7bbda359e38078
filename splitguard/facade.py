# SPDX-License-Identifier: Apache-2.0
"""The interface of a notebook: names in place of objects, for one deployment without a matrix file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from splitguard.api import ATTACKS, build_defense
from splitguard.data import load as load_data
from splitguard.data.rows import Data
from splitguard.engine.defense import Defense
from splitguard.engine.progress import bar
from splitguard.engine.roles import Attack, ClientAttack, OnlineAttack, ServerAttack
from splitguard.engine.session import Session
from splitguard.engine.threat import Labels, Mode
from splitguard.engine.train import train as train_module
from splitguard.engine.training import Training
from splitguard.errors import BadSetting, near_miss
from splitguard.models import make_model

__all__ = ["attack", "defense", "train"]

Model = str | Mapping[str, Any] | nn.Module


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
) -> Session:
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
        return train_module(
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


def _one_of(name: str, kind: type[Mode] | type[Labels], what: str) -> str:
    if name not in list(kind):
        raise BadSetting(near_miss(name, [str(k) for k in kind], what=what))
    return name
