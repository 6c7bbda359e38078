# SPDX-License-Identifier: Apache-2.0
"""The `data` entry of a matrix file as pure data, and `load`, which turns it or a Python object into a `Data`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset

from splitguard.data.coarse import check_coarse, renumbered
from splitguard.data.elsewhere import aux_source_settings, check_elsewhere, draw_elsewhere, sizes_elsewhere
from splitguard.data.partition import canonical
from splitguard.data.pool import Pool, check_inputs, from_dataset
from splitguard.data.rows import Data
from splitguard.data.sizes import sizes, whole
from splitguard.data.sources import open_pool, source_settings
from splitguard.data.splits import draw
from splitguard.errors import BadSetting, UnknownName, near_miss
from splitguard.registry import Spec

__all__ = ["DataSpec", "load"]


@dataclass(frozen=True)
class DataSpec:
    """Where the rows of a deployment come from and how they are split; see `draw` for the meaning of each field.

    Sizes that are None, and kinds of victims that are missing, are defaults that depend on the pool; `resolve` fills
    them in. All else is resolved on construction: two specs that mean the same are equal and are written alike.

    Attributes:
        name: of the data set.
        source: settings of the data set, such as ``path``.
        clients: number of clients.
        partition: how training rows are dealt, with all its settings.
        train: rows of all clients together.
        test: rows that measure utility.
        aux: rows of the attacker.
        aux_classes: classes the attacker has rows of, ascending; None: all.
        victims: ``member`` and ``query``, numbers of rows.
        coarse: for each class of the data set the coarse label that the network is trained on, numbered in the order
            in which they first appear; the class itself becomes the row's attribute. None: trained on the classes.
        aux_source: the data set that the attacker's rows come from, with all its settings; see `draw_elsewhere`. None:
            from the same one.
        known: rows a class of a label attack's victim whose labels the attacker knows, 0 or more. They are chosen
            among the rows that it reads when it reads them, so that nothing is drawn or trained otherwise for it.
    """

    name: str
    source: Mapping[str, Any] = field(default_factory=dict)
    clients: int = 1
    partition: Spec = "iid"
    train: int | None = None
    test: int | None = None
    aux: int | None = None
    aux_classes: tuple[int, ...] | None = None
    victims: Mapping[str, int] = field(default_factory=dict)
    coarse: tuple[int, ...] | None = None
    aux_source: str | Mapping[str, Any] | None = None
    known: int = 1

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("source", dict(self.source))
        put("partition", canonical(self.partition))
        whole(self.clients, "clients", 1)
        whole(self.known, "known", 0)
        for name, least in (("train", 1), ("test", 1), ("aux", 0)):
            if getattr(self, name) is not None:
                whole(getattr(self, name), name, least)
        if self.aux_classes is not None:
            if isinstance(self.aux_classes, str | int) or len(self.aux_classes) == 0:
                raise BadSetting(f"aux_classes must be a list of one class number or more; got {self.aux_classes!r}")
            put("aux_classes", tuple(sorted({whole(label, "aux_classes", 0) for label in self.aux_classes})))
        if self.coarse is not None:
            put("coarse", renumbered(self.coarse))
        if self.aux_source is not None:
            put("aux_source", aux_source_settings(self.aux_source))
        if not isinstance(self.victims, Mapping):
            raise BadSetting(f"victims must be written as {{member: 64, query: 64}}; got {self.victims!r}")
        for key in self.victims:
            if key not in ("member", "query"):
                raise UnknownName(near_miss(str(key), ("member", "query"), what="kind of victims"))
        kinds = [kind for kind in ("member", "query") if kind in self.victims]
        put("victims", {kind: whole(self.victims[kind], f"victims: {kind}", 0) for kind in kinds})

    @classmethod
    def parse(cls, spec: str | Mapping[str, Any], **settings: Any) -> DataSpec:
        """Reads ``"fashion-mnist"``, ``{name: fashion-mnist, clients: 5, ...}`` or ``{fashion-mnist: {clients: 5}}``.

        Settings of the data set itself stand under ``source`` or beside the others: ``{name: npz, path: x.npz}``. An
        ``aux_source`` that is the data set itself is none.

        Args:
            spec: the entry.
            **settings: further fields of it; they win over those in ``spec``.

        Raises:
            UnknownName: for the data set or a setting, with near misses.
            BadSetting: for a value that does not fit.
        """
        given: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
        if "name" not in given and len(given) == 1:
            (name, inner), *_ = given.items()
            given = {**(inner or {}), "name": name} if isinstance(inner, Mapping | None) else given
        given |= settings
        if not isinstance(given.get("name"), str):
            raise BadSetting(f"data is written as a name or as {{name: ..., setting: value}}; got {spec!r}")
        own = [f.name for f in dataclasses.fields(cls)]
        inline = {key: given.pop(key) for key in list(given) if key not in own}
        source = given.pop("source", None) or {}
        if not isinstance(source, Mapping):
            raise BadSetting(f"source must be written as {{setting: value}}; got {source!r}")
        out = cls(**given, source=source_settings(given["name"], {**source, **inline}, near=own))
        return dataclasses.replace(out, aux_source=None) if out.aux_source == {"name": out.name, **out.source} else out

    def elsewhere(self) -> Pool | None:
        """Where the auxiliary rows come from, opened; None where that is the data set itself."""
        if self.aux_source is None:
            return None
        settings = dict(aux_source_settings(self.aux_source))
        return open_pool(settings.pop("name"), settings)

    def resolve(self, pool: Pool | None = None, other: Pool | None = None) -> DataSpec:
        """The same spec with every size filled in from the pools, which are opened if they are not given.

        Args:
            pool: of the deployment.
            other: of the auxiliary rows, where they have a source of their own.

        Raises:
            BadSetting: if the sizes do not fit into the pool.
            DataUnavailable: if the data set is not on this machine.
        """
        pool = open_pool(self.name, self.source) if pool is None else pool
        if self.coarse is not None:
            check_coarse(self.coarse, pool)
        given: dict[str, Any] = {part: getattr(self, part) for part in ("train", "test", "aux", "victims")}
        other = self.elsewhere() if other is None else other
        if other is not None:
            check_elsewhere(pool, other, self.coarse)
        found = sizes(pool, **given) if other is None else sizes_elsewhere(pool, other, **given)
        victims = {"member": found.member, "query": found.query}
        return dataclasses.replace(self, train=found.train, test=found.test, aux=found.aux, victims=victims)

    def draw(self, seed: int, pool: Pool | None = None) -> Data:
        """The data of this spec and seed; see `splitguard.data.draw`."""
        pool, other = open_pool(self.name, self.source) if pool is None else pool, self.elsewhere()
        not_of_draw = ("name", "source", "aux_source", "known")
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in not_of_draw}
        data = draw(pool, **given, seed=seed) if other is None else draw_elsewhere(pool, other, **given, seed=seed)
        return data if self.known == data.known else dataclasses.replace(data, known=self.known)

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, fit for YAML and JSON; ``DataSpec.parse`` reads it back.

        ``coarse``, ``aux_source`` and a ``known`` other than 1 are written only where they are used: keys are made of
        this, and those of other data stay what they were.
        """
        out = dataclasses.asdict(self)
        out |= {name: list(out[name]) for name in ("aux_classes", "coarse") if out[name] is not None}
        unused = {"coarse": None, "aux_source": None, "known": 1}
        return {name: value for name, value in out.items() if name not in unused or value != unused[name]}


def load(
    spec: str | Mapping[str, Any] | DataSpec | Pool | Data | Dataset[Any], *, seed: int = 0, **settings: Any
) -> Data:
    """The `Data` of a name, an entry of a matrix file, a torch `Dataset`, a `Pool`, or a `Data` as it is.

    Args:
        spec: what to load; names are those of `DATASETS`.
        seed: of the draw; a `Data` is drawn already, and keeps its rows.
        **settings: fields of `DataSpec`, or settings of the named data set, as in ``load("npz", path="x.npz")``.

    Raises:
        UnknownName: for the name or a setting, with near misses.
        BadSetting: for a value or a request that does not fit.
        DataUnavailable: if the data set is not on this machine.
    """
    if isinstance(spec, Data):
        if settings:
            raise BadSetting(f"this Data is drawn already; {', '.join(settings)} cannot change it. Pass a Pool instead")
        for part, rows in spec.parts.items():
            check_inputs(rows.inputs, f"data {spec.name!r}, {part}")
        return spec
    if isinstance(spec, str | Mapping):
        return DataSpec.parse(spec, **settings).draw(seed)
    own = [f.name for f in dataclasses.fields(DataSpec) if f.name not in ("name", "source")]
    for key in settings:
        if key not in own:
            raise UnknownName(near_miss(key, own, what="setting of data:"))
    if isinstance(spec, DataSpec):
        return dataclasses.replace(spec, **settings).draw(seed)
    if isinstance(spec, Dataset):
        spec = from_dataset(spec)
    if not isinstance(spec, Pool):
        raise BadSetting(
            f"data must be a name, a mapping, a torch Dataset, a Pool or a Data; got {type(spec).__name__}"
        )
    return DataSpec(spec.name, **settings).draw(seed, spec)
