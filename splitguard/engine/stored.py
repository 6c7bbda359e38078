# SPDX-License-Identifier: Apache-2.0
"""What the server keeps of each row's single release, so that it can train on it for any number of epochs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["Stored"]


class Stored:
    """Smashed data, and labels where they are sent, by row id."""

    def __init__(self) -> None:
        self._place: dict[int, int] = {}
        self._smashed: list[Tensor] = []
        self._labels: list[Tensor] = []

    def put(self, ids: Tensor, smashed: Tensor, labels: Tensor | None) -> None:
        """Keeps what was sent of rows ``ids`` (N,), each for the first and only time."""
        first = len(self._smashed)
        self._place |= {row: first + i for i, row in enumerate(ids.tolist())}
        self._smashed.extend(smashed.detach().unbind())
        self._labels.extend([] if labels is None else labels.unbind())

    def get(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, *cut1) and (N,), or None without labels, of rows that were sent.

        Raises:
            KeyError: for a row that was not.
        """
        places = [self._place[row] for row in ids.tolist()]
        labels = torch.stack([self._labels[i] for i in places]) if self._labels else None
        return torch.stack([self._smashed[i] for i in places]), labels

    def state_dict(self) -> dict[str, Tensor]:
        """All of it as tensors; empty before the first release."""
        if not self._place:
            return {}
        out = {"ids": torch.tensor(list(self._place)), "smashed": torch.stack(self._smashed)}
        return {**out, "labels": torch.stack(self._labels)} if self._labels else out

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._place, self._smashed, self._labels = {}, [], []
        if state:
            self.put(state["ids"], state["smashed"], state.get("labels"))
