# SPDX-License-Identifier: Apache-2.0
"""splitguard: what can the other side of a split network reconstruct, and what does protection cost?

Everything a user needs is here, and loaded when it is first used: ``import splitguard`` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitguard import metrics, privacy
    from splitguard.data import load as load_data
    from splitguard.data.rows import Data
    from splitguard.engine.cut import legal_cuts, split
    from splitguard.engine.session import Session
    from splitguard.engine.training import Training
    from splitguard.facade import attack, defense, train
    from splitguard.matrix import Matrix, Results, load
    from splitguard.seeding import generator

__version__ = "0.1.0"

__all__ = [
    "Data",
    "Matrix",
    "Results",
    "Session",
    "Training",
    "attack",
    "defense",
    "generator",
    "legal_cuts",
    "load",
    "load_data",
    "metrics",
    "privacy",
    "split",
    "train",
]

#: Where each name lives; "module:attribute", or a module.
_HOME = {
    "Data": "splitguard.data.rows:Data",
    "Matrix": "splitguard.matrix:Matrix",
    "Results": "splitguard.matrix:Results",
    "Session": "splitguard.engine.session:Session",
    "Training": "splitguard.engine.training:Training",
    "attack": "splitguard.facade:attack",
    "defense": "splitguard.facade:defense",
    "generator": "splitguard.seeding:generator",
    "legal_cuts": "splitguard.engine.cut:legal_cuts",
    "load": "splitguard.matrix:load",
    "load_data": "splitguard.data:load",
    "metrics": "splitguard.metrics",
    "privacy": "splitguard.privacy",
    "split": "splitguard.engine.cut:split",
    "train": "splitguard.facade:train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'splitguard' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, _, attribute = _HOME[name].partition(":")
    found = importlib.import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
