# SPDX-License-Identifier: Apache-2.0
"""What all tests share: one thread, data that may be absent, and a guard over global randomness."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

# No deadline: the first call of a torch operator is slow. Fixed examples on a server: a red run there can be repeated.
hypothesis.settings.register_profile("splitguard", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("splitguard")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One thread and two give different bits in weight gradients; and the workers share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def test_data() -> Callable[[str], Path]:
    """``test_data("cifar10.npz")``: the path of real data; the test is skipped, saying so, where it is absent.

    The folder is ``$SPLITGUARD_DATA``, else ``../shared/data`` seen from the project.
    """

    def find(name: str) -> Path:
        folder = Path(os.environ.get("SPLITGUARD_DATA") or ROOT.parent / "shared" / "data")
        if not (folder / name).exists():
            pytest.skip(f"no {name} in {folder}; name another folder in $SPLITGUARD_DATA")
        return folder / name

    return find


@pytest.fixture(scope="session")
def rng_untouched() -> Callable[[], AbstractContextManager[None]]:
    """``with rng_untouched(): ...`` fails if the block draws from, or seeds, a global generator."""
    return _rng_untouched


@contextlib.contextmanager
def _rng_untouched() -> Iterator[None]:
    before = _global_states()
    yield
    touched = [name for name, state in _global_states().items() if state != before[name]]
    assert not touched, f"global randomness was used: {', '.join(touched)}; randomness comes in as a generator"


def _global_states() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  # the global state is what is guarded
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (kind, np.asarray(keys).tobytes(), *rest),
        "random": random.getstate(),
    }


@pytest.fixture(scope="session", autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    """What the examples in docstrings use without importing it."""
    import splitguard

    doctest_namespace.update(torch=torch, np=np, sg=splitguard)
