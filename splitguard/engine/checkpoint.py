# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: one file, replaced whole, read back without unpickling code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from splitguard.engine.defense import Alarm
from splitguard.errors import BadSetting

if TYPE_CHECKING:
    from splitguard.engine.loop import Loop
    from splitguard.engine.parties import Stage

__all__ = ["load_checkpoint", "save_checkpoint"]


def _stages(loop: Loop) -> list[Stage]:
    """Every stage once, in a fixed order; clients that hand their layers on share theirs."""
    found = [s for c in loop.clients for s in (c.head, c.tail) if s is not None] + [loop.server.body]
    return list({id(s): s for s in found}.values())


def save_checkpoint(path: Path, loop: Loop) -> None:
    """Writes all that changes while training to a temporary file, then renames it."""
    state = {
        "fingerprint": loop.fingerprint,
        "counters": {
            "step": loop.step,
            "epoch": loop.epoch,
            "done": loop.done_in_epoch,
            "seconds": loop.seconds,
            "holder": loop.holder,
            "stopped": loop.stopped,
        },
        "losses": loop.losses,
        "history": loop.history,
        "alarms": [(step, alarm.score, alarm.stop) for step, alarm in loop.alarms],
        "stages": [s.state_dict() for s in _stages(loop)],
        "averaged": loop.fed.trained if loop.fed else None,
        "bytes": loop.link.state_dict(),
        "defense": loop.defense.state_dict(),
        "networks": {name: m.state_dict() for name, m in loop.defense.modules().items()},
        "noise": loop.noise.get_state(),
        "stored": loop.round.stored.state_dict() if loop.round.stored else None,
        "transcript": loop.transcript.state_dict(),
        "observers": [o.state_dict() for o in loop.observers],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    torch.save(state, temporary)
    temporary.replace(path)


def load_checkpoint(path: Path, loop: Loop) -> None:
    """Puts a loop where the checkpoint was taken.

    Raises:
        BadSetting: if the file is of another session, or not a checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        fingerprint = state["fingerprint"]
    except Exception as error:
        raise BadSetting(f"{path} is not a checkpoint that can be read ({error}); delete it to start afresh") from None
    if fingerprint != loop.fingerprint:
        raise BadSetting(
            f"the checkpoint {path} belongs to a session with other settings, data or seed; give another path, or "
            "delete it to start afresh"
        )
    counters = state["counters"]
    loop.step, loop.epoch, loop.done_in_epoch = counters["step"], counters["epoch"], counters["done"]
    loop.seconds, loop.holder, loop.stopped = counters["seconds"], counters["holder"], counters["stopped"]
    loop.losses, loop.history = [loss.to(loop.around.device) for loss in state["losses"]], state["history"]
    loop.alarms = [(step, Alarm(score, stop)) for step, score, stop in state["alarms"]]
    for stage, saved in zip(_stages(loop), state["stages"], strict=True):
        stage.load_state_dict(saved)
    if loop.fed is not None:
        loop.fed.trained = state["averaged"]
    loop.link.load_state_dict(state["bytes"])
    loop.defense.load_state_dict(state["defense"])
    for name, module in loop.defense.modules().items():
        module.load_state_dict(state["networks"][name])
    loop.noise.set_state(state["noise"])
    if loop.round.stored is not None:
        loop.round.stored.load_state_dict({k: v.to(loop.around.device) for k, v in state["stored"].items()})
    loop.transcript.load_state_dict(state["transcript"])
    for observer, saved in zip(loop.observers, state["observers"], strict=True):
        observer.load_state_dict(saved)
        observer.follow(loop.server.body.module)
