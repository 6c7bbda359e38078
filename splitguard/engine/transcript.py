# SPDX-License-Identifier: Apache-2.0
"""The bounded record of what crossed the wire: what a view is made of.

A transcript keeps the victims' rows at every release with the layers that made them, and all rows of one client
for one epoch; in splitfed also what the fed server was sent in that epoch. It never holds an input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splitguard.engine.updates import UpdateLog
from splitguard.engine.wire import Exchange, Phase, Releases, State, entries, joined, size_of

__all__ = ["Keep", "Transcript"]


@dataclass(frozen=True)
class Keep:
    """What a transcript keeps, so that its memory is bounded and stated.

    Attributes:
        victims: ids whose rows are kept at every release, with the head that made them.
        client: the client of which all rows of one epoch are kept (label attacks), or -1 for none.
        epoch: that epoch, of which all clients' updates to the fed server are kept, too.
        context_bytes: rows of that client are kept up to this many bytes, the first ones.
        snapshot_bytes: snapshots of the clients' layers are kept up to this many bytes, the latest ones.
        update_bytes: updates to the fed server are kept up to this many bytes, the first ones; see `UpdateLog`.
    """

    victims: Tensor
    client: int = -1
    epoch: int = 0
    context_bytes: int = 32 * 2**20
    snapshot_bytes: int = 64 * 2**20
    update_bytes: int = 32 * 2**20


PARTS = ("training", "query", "context")


class Transcript:
    """The record of what crossed the wire, and when, in the bounds of a `Keep`.

    It has three parts: ``training`` and ``query`` hold the victims' rows, ``context`` all rows of one client for one
    epoch. Beside them stand the snapshots of the clients' layers that made the victims' rows, and ``updates``, what the
    fed server was sent.
    """

    def __init__(self, keep: Keep) -> None:
        self.keep = keep
        self.snapshots: dict[int, State] = {}
        self.updates = UpdateLog(keep.epoch, keep.update_bytes)
        self._parts: dict[str, list[Releases]] = {name: [] for name in PARTS}
        self._made_by: tuple[int, int] | None = None
        self._taken = 0
        self._bytes = {"snapshots": 0, "context": 0}

    def append(self, exchange: Exchange, *, made_by: tuple[int, int], head: Callable[[], State]) -> None:
        """Records what the policy keeps of one exchange; rows that were released before are not released again.

        Args:
            exchange: what crossed.
            made_by: changes whenever the layers that made ``smashed`` do; one snapshot is taken for each run of it.
            head: those layers as they were when they made ``smashed``; called only if a victim was sent.
        """
        keep = self.keep
        if exchange.phase is Phase.EVALUATION:
            return
        of_victims = torch.isin(exchange.ids, keep.victims)
        if not exchange.repeated and bool(of_victims.any()):
            made = self._snapshot(made_by, head)
            self._parts[exchange.phase.value].append(entries(exchange, of_victims, made))
        wanted = (exchange.phase, exchange.client, exchange.epoch) == (Phase.TRAINING, keep.client, keep.epoch)
        if wanted and self._bytes["context"] < keep.context_bytes:
            rows = entries(exchange, torch.ones_like(of_victims), -1)
            self._parts["context"].append(rows)
            self._bytes["context"] += size_of(rows.to_tensors(""))

    def _snapshot(self, made_by: tuple[int, int], head: Callable[[], State]) -> int:
        """The number of the snapshot for these layers, taking it if they are new."""
        if self._made_by != made_by:
            state = {k: v.detach().to("cpu", copy=True) for k, v in head().items()}
            self._made_by = made_by
            self.snapshots[self._taken] = state
            self._taken += 1
            self._bytes["snapshots"] += size_of(state)
            while self._bytes["snapshots"] > self.keep.snapshot_bytes and len(self.snapshots) > 1:
                self._bytes["snapshots"] -= size_of(self.snapshots.pop(next(iter(self.snapshots))))
        return self._taken - 1

    def releases(self, part: str) -> Releases | None:
        """The rows of ``"training"``, ``"query"`` or ``"context"``, or None if none were kept.

        ``head`` is -1 where the snapshot was dropped for memory.
        """
        pieces = self._parts[part]
        if not pieces:
            return None
        if len(pieces) > 1:
            pieces[:] = [joined(pieces)]  # folded, so that the work is done once
        kept = torch.tensor(list(self.snapshots), dtype=torch.int64)
        return replace(pieces[0], head=torch.where(torch.isin(pieces[0].head, kept), pieces[0].head, -1))

    def state_dict(self) -> State:
        """All of it as flat tensors, for safetensors and for checkpoints."""
        owner, version = self._made_by or (-2, -2)
        out: State = {"transcript": torch.tensor([self._taken, owner, version])}
        for part in PARTS:
            rows = self.releases(part)
            out |= {} if rows is None else rows.to_tensors(f"{part}/")
        for number, state in self.snapshots.items():
            out |= {f"head/{number}/{k}": v for k, v in state.items()}
        return out | self.updates.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._taken, owner, version = state["transcript"].tolist()
        self._made_by = (owner, version)
        for part in PARTS:
            self._parts[part] = [Releases.from_tensors(state, f"{part}/")] if f"{part}/ids" in state else []
        snapshots: dict[int, State] = {}
        for key, value in state.items():
            if key.startswith("head/"):
                _, number, name = key.split("/", 2)
                snapshots.setdefault(int(number), {})[name] = value
        self.snapshots = dict(sorted(snapshots.items()))
        self.updates.load_state_dict(state)
        context = self._parts["context"]
        self._bytes = {
            "snapshots": sum(map(size_of, self.snapshots.values())),
            "context": size_of(context[0].to_tensors("")) if context else 0,
        }
