# SPDX-License-Identifier: Apache-2.0
"""The toy attacks have names while these tests run, and no longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from splitguard.api import ATTACKS
from splitguard.matrix import Store
from splitguard.matrix import work as work_module
from tests.matrix.toys import TOYS


@pytest.fixture(autouse=True)
def _toys_have_names() -> Iterator[None]:
    ATTACKS.load()
    with pytest.MonkeyPatch.context() as patch:
        for name, toy in TOYS.items():
            patch.setitem(ATTACKS._found, name, toy)
            patch.setattr(toy, "name", name)
        yield


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sessions that were trained, in order."""
    seen: list[str] = []
    honest = work_module.SessionJob._train

    def counted(job: work_module.SessionJob, store: Store, key: str) -> None:
        seen.append(key)
        honest(job, store, key)

    monkeypatch.setattr(work_module.SessionJob, "_train", counted)
    return seen
