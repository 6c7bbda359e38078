# SPDX-License-Identifier: Apache-2.0
"""The matrix file: which keys it has, what each may hold, and how its blocks are laid over one another.

    title:   what the report is called                               # optional
    demonstration: true                                              # optional: too small to be evidence
    data:    {name: fashion-mnist, clients: 5, victims: {member: 64, query: 64}}
    model:   lenet                                                   # or {factory: "my.module:make"}
    mode:    [vanilla, {vanilla: {labels: server}}, u-shaped]
    cut:     [conv1, conv2, conv2..fc1]
    defense: [none, {gaussian: {epsilon: [8, 200]}}, [{nopeek: {weight: 0.5}}, {gaussian: {epsilon: 200}}]]
    attack:  [white-box-inversion, inverse-network]                  # or breakers: those that each defense declares
    profile: head-known
    adaptive: true
    train:   {epochs: 5, optimizer: {name: sgd, lr: 0.05}}
    seeds:   [0, 1, 2]
    blocks:                                                          # optional
      - {mode: [vanilla, u-shaped]}
      - {mode: vanilla, defense: {gaussian: {epsilon: 8}}, train: {head: frozen}}

Every list is an axis, also inside settings, and all axes are crossed; a list inside ``defense`` is a composition. With
``blocks`` the matrix is the union of the blocks: each is the top level with the block's keys laid over it (``data`` and
``train`` key by key, the others whole). A cell that two blocks name is run once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from splitguard.errors import near_miss
from splitguard.matrix.reading import MatrixError, Source

__all__ = ["Block", "MatrixFile", "validate"]

T = TypeVar("T")


def _many(value: Any) -> Any:
    """A single value stands for a list of one."""
    listed = list(value) if isinstance(value, list | tuple) else [value]
    if not listed:
        raise PydanticCustomError("empty", "one value or more")
    return listed


def _named(value: Any) -> Any:
    """``name`` or ``{name: {setting: value}}``."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and len(value) == 1 and isinstance(next(iter(value.values())), Mapping | None):
        return value
    raise PydanticCustomError("named", "a name, or {name: {setting: value}}")


def _settings(value: Any) -> Any:
    """``name`` or a mapping of settings."""
    if isinstance(value, str | Mapping) and value:
        return value
    raise PydanticCustomError("settings", "a name, or {setting: value, ...}")


def _defense(value: Any) -> Any:
    """One defense, or a list of them, applied in that order."""
    if isinstance(value, list | tuple):
        if not value:
            raise PydanticCustomError("empty", "one defense or more; write none for no defense")
        return [_named(item) for item in value]
    return _named(value)


Many = Annotated[list[T], BeforeValidator(_many)]
Named = Annotated[Any, BeforeValidator(_named)]
Settings = Annotated[Any, BeforeValidator(_settings)]
Seed = Annotated[int, Field(strict=True, ge=0)]


class Block(BaseModel):
    """The axes; a key that is None is taken from the top level, or else has its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Many[Settings] | None = None
    model: Many[Settings] | None = None
    mode: Many[Named] | None = None
    cut: Many[StrictStr] | None = None
    defense: Many[Annotated[Any, BeforeValidator(_defense)]] | None = None
    attack: Many[Named] | None = None
    profile: Many[StrictStr] | None = None
    adaptive: Many[StrictBool] | None = None
    train: Many[dict[str, Any]] | None = None
    seeds: Many[Seed] | None = None

    def over(self, below: Block) -> Block:
        """This block's keys laid over those of ``below``."""
        values = {name: getattr(below, name) for name in Block.model_fields}
        for name in Block.model_fields:
            own = getattr(self, name)
            if own is not None:
                below_it = values[name]
                if name == "data" and below_it is not None:
                    below_it = [_flat(entry) for entry in below_it]
                values[name] = _laid_over(own, below_it) if name in ("data", "train") else own
        return Block.model_construct(**values)


class MatrixFile(Block):
    """The whole file.

    Attributes:
        title: of the report.
        demonstration: marks results as too small to be evidence.
        blocks: laid over the top level one by one; none means the top level alone.
    """

    title: StrictStr | None = None
    demonstration: StrictBool = False
    blocks: list[Block] = Field(default_factory=list)

    def parts(self) -> list[Block]:
        """The blocks, each complete."""
        return [block.over(self) for block in self.blocks] or [self]


def _laid_over(own: list[Any], below: list[Any] | None) -> list[Any]:
    """Every mapping of ``own`` over every entry of ``below``; a name replaces them all."""
    if below is None:
        return own
    out: list[Any] = []
    for upper in own:
        out += [{**lower, **upper} for lower in below] if isinstance(upper, Mapping) else [upper]
    return out


def _flat(entry: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """``{name: faces, clients: 2}`` for ``{faces: {clients: 2}}``, and likewise for a mere name."""
    if isinstance(entry, str):
        return {"name": entry}
    if "name" not in entry and len(entry) == 1:
        ((name, settings),) = entry.items()
        if isinstance(settings, Mapping | None):
            return {"name": name, **(settings or {})}
    return entry


def validate(value: Any, source: Source) -> MatrixFile:
    """The file's structure, checked; names and settings are resolved later.

    Raises:
        MatrixError: with one line for each problem.
    """
    if not isinstance(value, Mapping):
        raise MatrixError([f"{source.file or 'matrix'}: wanted keys such as data, model, cut, attack; got {value!r}"])
    try:
        return MatrixFile.model_validate(dict(value))
    except ValidationError as error:
        raise MatrixError(_unique(_problem(e, source) for e in error.errors(include_url=False))) from None


def _problem(error: ErrorDetails, source: Source) -> str:
    place = error["loc"]
    if error["type"] == "extra_forbidden":
        known = Block.model_fields if place[0] == "blocks" and len(place) > 2 else MatrixFile.model_fields
        return source.problem(place, near_miss(str(place[-1]), known, what="key"))
    wanted = error["msg"].removeprefix("Input should be ")
    return source.problem(place, f"wanted {wanted}; got {error['input']!r}")


def _unique(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(lines))
