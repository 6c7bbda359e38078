# SPDX-License-Identifier: Apache-2.0
"""The fed server: it averages the clients' layers, and the transcript keeps what it is sent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from splitguard.engine.links import Link
from splitguard.engine.parties import Client, Stage
from splitguard.engine.updates import Update, UpdateLog

__all__ = ["FedServer"]


class FedServer:
    """Averages the clients' layers, weighted by the rows they trained on since the last time, buffers included.

    Args:
        clients: each with layers of its own, which are equal at first.
        link: counts what they send and get back.
        log: keeps some of it.
        head_frozen: the heads are public and fixed, and nobody sends them.

    Attributes:
        trained: for each client, the row ids of each of its steps since the last averaging.
    """

    def __init__(self, clients: Sequence[Client], link: Link, log: UpdateLog, *, head_frozen: bool = False) -> None:
        self._clients, self._link, self._log, self._head_frozen = clients, link, log, head_frozen
        self.trained: list[list[Tensor]] = [[] for _ in clients]

    @property
    def seen(self) -> list[int]:
        """n_i: how many rows each client trained on since the last averaging."""
        return [sum(map(len, steps)) for steps in self.trained]

    def hand_out(self, epoch: int) -> None:
        """Notes the layers that all clients start from, if what they make of them is to be recorded."""
        if len(self._clients) > 1 and any(s.optimizer for s in self._sent_by(self._clients[0])):
            self._log.begin(epoch, self._clients[0].layers)

    def collect(self, epoch: int, step: int) -> None:
        """One averaging: every client sends its layers up, and gets the average back.

        Nothing is sent where there is nothing to average: by one client only, or if no row was trained on.

        Args:
            epoch: the present one.
            step: rounds of the session that are over.
        """
        if len(self._clients) > 1 and sum(self.seen) > 0:
            if self._log.waiting:
                self._log.end([self._update(c, epoch, step) for c in self._clients if self.trained[c.number]])
            for stage in (s for c in self._clients for s in self._sent_by(c)):
                self._link.count("up", stage.module.state_dict())
                self._link.count("down", stage.module.state_dict())
            self.average()
        self.trained = [[] for _ in self._clients]

    def average(self) -> None:
        """Of the layers that are sent: sum_i (n_i / N) w_i for every parameter and floating buffer.

        Whole-number buffers take the largest.
        """
        seen = self.seen
        shares = [n / sum(seen) for n in seen]
        for stages in zip(*map(self._sent_by, self._clients), strict=True):
            states = [s.module.state_dict() for s in stages]
            for name in states[0]:
                values = [s[name] for s in states]
                if values[0].is_floating_point():
                    mean = sum((v * w for v, w in zip(values, shares, strict=True)), torch.zeros_like(values[0]))
                else:
                    mean = torch.stack(values).amax(0)
                for v in values:
                    v.copy_(mean)

    def _sent_by(self, client: Client) -> list[Stage]:
        """The stages whose layers a client sends."""
        return [s for s in (None if self._head_frozen else client.head, client.tail) if s is not None]

    def _update(self, client: Client, epoch: int, step: int) -> Update:
        """What a client sends, for the record, which fills in what it started from."""
        optimizers = [s.optimizer for s in self._sent_by(client) if s.optimizer]
        steps = self.trained[client.number]
        return Update(
            client=client.number,
            epoch=epoch,
            step=step,
            lr=float(optimizers[-1].param_groups[0]["lr"]),
            ids=torch.cat(steps),
            batches=torch.tensor([len(ids) for ids in steps]),
            before={},
            after=client.layers(),
        )
