# SPDX-License-Identifier: Apache-2.0
"""What every registered attack and every registered defense promises: `splitguard check NAME`."""

from splitguard.contract.attack import check_attack
from splitguard.contract.defense import check_defense
from splitguard.engine.promises import Check

__all__ = ["Check", "check_attack", "check_defense"]
