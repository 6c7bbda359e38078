# SPDX-License-Identifier: Apache-2.0
"""Finished sessions on disk: safetensors for tensors, JSON for numbers, nothing that runs code when read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from splitguard.data.rows import Data
from splitguard.engine.cut import split
from splitguard.engine.defense import Alarm, Defense
from splitguard.engine.threat import Labels, Mode
from splitguard.engine.training import Training
from splitguard.engine.transcript import Keep, Transcript
from splitguard.errors import BadSetting
from splitguard.privacy.guarantee import Guarantee
from splitguard.seeding import generator

if TYPE_CHECKING:
    from splitguard.engine.session import Session

__all__ = ["load_session", "save_session"]

FORMAT = 1


def save_session(session: Session, folder: Path) -> None:
    """Writes network.safetensors, transcript.safetensors, defense.pt (tensors and plain values) and session.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_own(session.split.state_dict()), folder / "network.safetensors")
    save_file(_own(session.transcript.state_dict()), folder / "transcript.safetensors")
    networks = {name: m.state_dict() for name, m in session.defense.modules().items()}
    torch.save({"state": session.defense.state_dict(), "networks": networks}, folder / "defense.pt")
    facts = {
        "format": FORMAT,
        "mode": session.mode,
        "labels": session.labels,
        "cuts": session.cuts,
        "cut_shapes": session.cut_shapes,
        "training": dataclasses.asdict(session.training),
        "seed": session.seed,
        "data": session.data.digest,
        **session.results(),
    }
    (folder / "session.json").write_text(json.dumps(facts, indent=1))


def load_session(folder: Path, *, module: nn.Module, data: Data, defense: Defense | None = None) -> Session:
    """The inverse of `save_session`; see `Session.load`."""
    from splitguard.engine.session import Session

    try:
        facts: dict[str, Any] = json.loads((folder / "session.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise BadSetting(f"{folder} holds no session that can be read: {error}") from None
    if facts.get("format") != FORMAT:
        raise BadSetting(f"{folder} was written in format {facts.get('format')}; this version reads {FORMAT}")
    if facts["data"] != data.digest:
        raise BadSetting(f"{folder} was trained on another draw of the data ({facts['data']}, not {data.digest})")
    defense = defense if defense is not None else Defense()
    training = Training.parse(facts["training"])
    if training.precision == "float64":
        module, data = module.double(), data.double()
    kept = torch.load(folder / "defense.pt", map_location="cpu", weights_only=True)
    defense.load_state_dict(kept["state"])  # before `wrap`: it stands in for `place`, too, which is not called here
    network = defense.wrap(split(module, tuple(facts["cuts"])), generator(facts["seed"], "wrap"))
    try:
        network.load_state_dict(load_file(folder / "network.safetensors"))
    except RuntimeError as error:
        raise BadSetting(f"{folder} was trained with another network: {error}") from None
    for name, twin in defense.modules().items():
        twin.load_state_dict(kept["networks"][name])
    transcript = Transcript(Keep(torch.cat([data.members, data.query.ids])))
    transcript.load_state_dict(load_file(folder / "transcript.safetensors"))
    return Session(
        data=data,
        mode=Mode(facts["mode"]),
        labels=Labels(facts["labels"]),
        cuts=tuple(facts["cuts"]),
        cut_shapes=tuple(map(tuple, facts["cut_shapes"])),
        training=training,
        seed=facts["seed"],
        split=network.eval(),
        defense=defense,
        transcript=transcript,
        history=facts["history"],
        costs=facts["costs"],
        accuracy=facts["accuracy"],
        auc=facts.get("auc"),  # sessions saved before it was measured have none
        aux_accuracy=facts["aux_accuracy"],
        guarantees=tuple(Guarantee.from_dict(g) for g in facts["guarantees"]),
        alarms=[(step, Alarm(score, stop)) for step, score, stop in facts["alarms"]],
        digest=facts["digest"],
    )


def _own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies that share no memory, as safetensors wants them."""
    return {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
