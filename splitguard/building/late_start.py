# SPDX-License-Identifier: Apache-2.0
"""When the victims begin to learn, as the server sees it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from splitguard.engine.wire import Exchange
from splitguard.errors import BadSetting

__all__ = ["LateStart"]

#: The share of the smoothed signal that each exchange replaces.
FRESH = 0.2


class LateStart:
    """Says no until the victims' smoothed loss lies a share below its highest value, and yes from then on.

        s_n = s_(n-1) + 0.2 (loss_n - s_(n-1)),     yes once  s_n <= (1 - share) max_(m <= n) s_m

    Where the labels are not seen, neither is the loss, and the answer is yes at once. The length of the returned
    gradient is no substitute: it grows with the weights while the error falls.

    Args:
        share: in [0, 1); 0 says yes at once.

    Attributes:
        signal: the smoothed loss and its highest value; empty before the first exchange, and as it was from yes on.

    Raises:
        BadSetting: for a share outside its range.
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share < 1:
            raise BadSetting(f"a late start waits for a share in [0, 1) of the loss to fall; got {share!r}")
        self.share = share
        self.signal: list[float] = []

    def __call__(self, exchange: Exchange, body: Callable[[Tensor], Tensor]) -> bool:
        """Whether to begin with this exchange, or to have begun; ``body`` is that of the exchange."""
        if self.share == 0 or self._fell() or exchange.labels is None:
            return True
        with torch.no_grad():
            new = float(cross_entropy(body(exchange.smashed), exchange.labels))
        before, most = self.signal or (new, new)
        now = before + FRESH * (new - before)
        self.signal = [now, max(now, most)]
        return self._fell()

    def _fell(self) -> bool:
        return bool(self.signal) and self.signal[0] <= (1 - self.share) * self.signal[1]
