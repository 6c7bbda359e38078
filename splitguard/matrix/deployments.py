# SPDX-License-Identifier: Apache-2.0
"""Which data sets, networks and cuts a matrix names, opened once each, and what a deployment makes of its cuts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from splitguard.api import Cut, Labels, Mode, build_defense
from splitguard.data import DataSpec
from splitguard.data.pool import Pool
from splitguard.data.sources import DATASETS, open_pool
from splitguard.engine.cut import legal_cuts
from splitguard.engine.placement import canonical, resolve
from splitguard.errors import BadCut, NotSupported
from splitguard.matrix.axes import combinations, sequence_settings
from splitguard.matrix.cell import Plugin
from splitguard.matrix.cell import canonical as as_text
from splitguard.matrix.cell import digest as digest_of
from splitguard.matrix.plugins import plain
from splitguard.models import MODELS, make_model, model_spec

__all__ = ["Networks", "Spot", "Task"]


@dataclass(frozen=True)
class Task:
    """One way to draw the data, resolved.

    Attributes:
        data: plain data that `DataSpec.parse` reads back, and ``digest``, 16 hex digits of what the data set holds, and
            that of the auxiliary rows where it is another one.
        shape: of one input.
        classes: K, of the task; with coarse labels fewer than the data set has.
    """

    data: Mapping[str, Any]
    shape: tuple[int, ...]
    classes: int


@dataclass(frozen=True)
class Spot:
    """Where a deployment is cut; or the reason why it cannot be."""

    labels: Labels
    base: tuple[str, ...]
    cuts: tuple[str, ...]
    reason: str | None = None


class Networks:
    """Opens data sets and networks once each."""

    def __init__(self) -> None:
        self._pools: dict[str, tuple[Pool, str]] = {}
        self._tasks: dict[str, Task] = {}
        self._modules: dict[str, tuple[nn.Module, tuple[Cut, ...]]] = {}

    def data_points(self, entry: str | Mapping[str, Any]) -> list[str | dict[str, Any]]:
        """Each combination of the settings of one ``data`` entry."""
        if isinstance(entry, str):
            return [entry]
        name = entry.get("name") or (next(iter(entry)) if len(entry) == 1 else "")
        own = [sequence_settings(DATASETS.get(n)) for n in (name, *_aux_sources(entry, name)) if n in DATASETS]
        return list(combinations(entry, whole=frozenset().union(sequence_settings(DataSpec), *own)))

    def task(self, point: str | Mapping[str, Any]) -> Task:
        """One combination, checked against the data set on this machine."""
        spec = DataSpec.parse(point)
        if repr(spec) not in self._tasks:
            pool, content = self._opened({"name": spec.name, **spec.source})
            other, digest = None, content
            if isinstance(spec.aux_source, Mapping):
                other, beside = self._opened(spec.aux_source)
                digest = digest_of([content, beside])
            resolved = spec.resolve(pool, other)
            resolved.draw(0, pool)  # what cannot be drawn, or dealt to so many clients, is told before anything runs
            classes = pool.classes if spec.coarse is None else len(set(spec.coarse))
            found = Task({**resolved.as_dict(), "digest": digest}, tuple(pool.inputs.shape[1:]), classes)
            self._tasks |= {repr(spec): found, repr(resolved): found}
        return self._tasks[repr(spec)]

    def _opened(self, source: Mapping[str, Any]) -> tuple[Pool, str]:
        """A data set with its settings beside its name, and the digest of what it holds."""
        where = as_text({key: str(value) for key, value in source.items()})
        if where not in self._pools:
            pool = open_pool(source["name"], {key: value for key, value in source.items() if key != "name"})
            self._pools[where] = pool, _content(pool)
        return self._pools[where]

    def model_points(self, entry: str | Mapping[str, Any]) -> list[dict[str, Any]]:
        """Each combination of the settings of one ``model`` entry, in resolved form."""
        if isinstance(entry, str):
            return [model_spec(entry)]
        name = entry.get("name") or (next(iter(entry)) if len(entry) == 1 else "")
        whole = sequence_settings(MODELS.get(name)) if name in MODELS else frozenset()
        return [plain(model_spec(point)) for point in combinations(entry, whole=whole)]

    def module(self, model: Mapping[str, Any], task: Task) -> tuple[nn.Module, tuple[Cut, ...]]:
        """The network for a task, and its legal cuts in network order."""
        key = as_text([model, task.shape, task.classes])
        if key not in self._modules:
            module = make_model(model, input_shape=task.shape, classes=task.classes, seed=0)
            self._modules[key] = module, tuple(legal_cuts(module, task.shape))
        return self._modules[key]

    def check_cut(self, cut: str, models: Iterable[Mapping[str, Any]], tasks: Sequence[Task]) -> None:
        """Refuses a cut that no network of the matrix has.

        Raises:
            BadCut: with the near legal cuts of the first network.
        """
        first: BadCut | None = None
        for model in models:
            for task in tasks:
                try:
                    for name in cut.split(".."):
                        canonical(name, self.module(model, task)[1])
                except BadCut as error:
                    first = first or error
                else:
                    return
        if first is not None:
            raise first

    def spot(
        self,
        model: Mapping[str, Any],
        task: Task,
        *,
        mode: Mode,
        owner: Labels | None,
        cut: str | None,
        defense: Sequence[Plugin],
    ) -> Spot:
        """Where this deployment is cut; a combination that does not exist is a refusal, not an error."""
        if mode is Mode.CENTRALIZED:  # one deployment, whatever cuts and label owners are crossed with it
            return Spot(Labels.SENT, (), (), "centralized training has no cut to defend" if defense else None)
        module, legal = self.module(model, task)
        built = build_defense([d.spec for d in defense] or "none")
        try:
            placed = resolve(module, task.shape, mode=mode, cut=cut, labels=owner, defense=built, legal=legal)
        except (BadCut, NotSupported) as error:
            asked = tuple(cut.split("..")) if cut else ()
            return Spot(owner or (Labels.CLIENT if mode is Mode.U_SHAPED else Labels.SENT), asked, asked, str(error))
        return Spot(placed.labels, placed.base, placed.cuts)


def _aux_sources(entry: Mapping[str, Any], name: str) -> list[str]:
    """The names of the data sets that one ``data`` entry takes auxiliary rows from."""
    inner = entry.get(name)
    found = (inner if isinstance(inner, Mapping) else entry).get("aux_source")
    listed = found if isinstance(found, list | tuple) else [found]
    named = [one.get("name", next(iter(one), None)) if isinstance(one, Mapping) else one for one in listed]
    return [one for one in named if isinstance(one, str)]


def _content(pool: Pool) -> str:
    """16 hex digits of the SHA-256 of all rows and labels: the data set, wherever its file lies."""
    out = hashlib.sha256()
    for tensor in (pool.inputs, pool.labels, pool.test_inputs, pool.test_labels):
        if tensor is not None:
            out.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            out.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return out.hexdigest()[:16]
