# SPDX-License-Identifier: Apache-2.0
"""What the clients send the fed server, in bounded memory: their layers before and after they trained them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from splitguard.engine.training import Training
from splitguard.engine.wire import State, size_of
from splitguard.errors import BadSetting, NotSupported

__all__ = ["Update", "UpdateLog", "Updates"]


@dataclass(frozen=True)
class Update:
    """One client's layers as the fed server handed them out, and as it got them back.

    Attributes:
        client, epoch: which and when, counted from 0.
        step: rounds of the session that were over when it was sent.
        lr: learning rate of the tail (of the head, where there is no tail) since the averaging before.
        ids: (n,) the rows it was trained on since then, in order of time; a row drawn twice is there twice. Row ids
            are the server's knowledge; the fed server has them because the two collude.
        batches: (S,) int64, of how many of these rows each of its S local steps was made.
        before, after: parameters and buffers, keys beginning with ``head.`` and ``tail.``.
    """

    client: int
    epoch: int
    step: int
    lr: float
    ids: Tensor
    batches: Tensor
    before: State
    after: State


@dataclass(frozen=True)
class Updates:
    """What the fed server was sent in one epoch, and the public settings by which it was made.

    Attributes:
        sent: in order of time, then of client.
        optimizer: of the tail (of the head, where there is no tail): ``name`` and all of torch's settings, the
            learning rate aside, which each update has its own of.
    """

    sent: tuple[Update, ...]
    optimizer: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, log: UpdateLog, training: Training) -> Updates | None:
        """What a log holds; None if that is nothing."""
        if not log.sent:
            return None
        part = "tail" if any(k.startswith("tail.") for k in log.sent[0].before) else "head"
        made = training.make_optimizer(part, [nn.Parameter(torch.zeros(1))])
        settings = {k: v for k, v in made.param_groups[0].items() if k not in ("params", "lr", "initial_lr")}
        return cls(tuple(log.sent), {"name": type(made).__name__.lower(), **settings})


class UpdateLog:
    """The bounded record of updates: all clients', of one epoch, the first averagings of it.

    Of each averaging the tails are kept, while all that is kept takes at most ``limit`` bytes; the heads beside them,
    while it takes at most half of that. An averaging is kept of all clients or of none, and none is after one was not.

    Args:
        epoch: the one that is recorded.
        limit: in bytes; 0 records nothing.
    """

    def __init__(self, epoch: int, limit: int) -> None:
        if limit < 0:
            raise BadSetting(f"update_bytes must be at least 0; got {limit}")
        self.epoch, self.limit = epoch, limit
        self.sent: list[Update] = []
        self._start: State | None = None
        self._bytes = 0
        self._full = limit == 0

    def begin(self, epoch: int, layers: Callable[[], State]) -> None:
        """Notes the layers that all clients start from; ``layers`` is called only where they are to be recorded."""
        self._start = _kept(layers()) if epoch == self.epoch and not self._full else None

    @property
    def waiting(self) -> bool:
        """Whether the updates of the averaging to come are to be handed over."""
        return self._start is not None

    def end(self, updates: Sequence[Update]) -> None:
        """Keeps the updates of one averaging, as far as there is room; ``before`` is filled in here."""
        start, self._start = self._start, None
        if start is None or not updates:
            return
        for part, room in (("", self.limit // 2), ("tail.", self.limit)):
            before = {k: v for k, v in start.items() if k.startswith(part)}
            bytes_ = self._bytes + size_of(before) * (1 + len(updates))
            if before and bytes_ <= room:
                self._bytes = bytes_
                for u in updates:
                    after = _kept({k: u.after[k] for k in before})
                    self.sent.append(replace(u, before=before, after=after))
                return
        self._full = True

    def rows(self) -> Tensor:
        """(N,) every row that some update was made on, once, in order of first appearance.

        Raises:
            NotSupported: if there is no update.
        """
        if not self.sent:
            raise NotSupported(
                f"the fed server was sent nothing that is on record for epoch {self.epoch}: with one client, or layers "
                "that are not trained, nothing is averaged. Give the data two clients or more"
            )
        return torch.tensor(list(dict.fromkeys(int(i) for update in self.sent for i in update.ids)))

    def state_dict(self) -> State:
        """All of it as flat tensors, for safetensors and for checkpoints; empty where nothing was ever recorded."""
        if not (self.sent or self._start or self._full):
            return {}
        out: State = {"update/log/full": torch.tensor(self._full)}
        out |= {f"update/start/{k}": v for k, v in (self._start or {}).items()}
        for number, u in enumerate(self.sent):
            facts = {
                "facts": torch.tensor([u.client, u.epoch, u.step]),
                "lr": torch.tensor(u.lr, dtype=torch.float64),
                "ids": u.ids,
                "batches": u.batches,
            }
            out |= {f"update/{number}/{k}": v for k, v in facts.items()}
            out |= {f"update/{number}/after/{k}": v for k, v in u.after.items()}
            out |= {f"update/before {u.step}/{k}": v for k, v in u.before.items()}
        return out

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        groups: dict[str, State] = {}
        for key, value in state.items():
            if key.startswith("update/"):
                _, group, name = key.split("/", 2)
                groups.setdefault(group, {})[name] = value
        self._full = bool(groups["log"]["full"]) if "log" in groups else self.limit == 0
        self._start = groups.get("start")
        self.sent, self._bytes = [], 0
        while (own := groups.get(str(len(self.sent)))) is not None:
            client, epoch, step = own["facts"].tolist()
            before = groups[f"before {step}"]
            after = {k.removeprefix("after/"): v for k, v in own.items() if k.startswith("after/")}
            if not self.sent or self.sent[-1].step != step:
                self._bytes += size_of(before)
            self._bytes += size_of(after)
            self.sent.append(Update(client, epoch, step, float(own["lr"]), own["ids"], own["batches"], before, after))


def _kept(state: State) -> State:
    """Copies in main memory."""
    return {k: v.detach().to("cpu", copy=True) for k, v in state.items()}
