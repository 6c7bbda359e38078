# SPDX-License-Identifier: Apache-2.0
"""From the file's words to cells: every name, setting, cut and version is resolved before anything runs."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from splitguard.api import ATTACKS, DEFENSES, Attack, Labels, Mode, Profile, Seat
from splitguard.engine.training import Training
from splitguard.errors import BadSetting, SplitguardError, near_miss
from splitguard.matrix.axes import combinations
from splitguard.matrix.breakers import WORD as BREAKERS
from splitguard.matrix.breakers import breakers_of
from splitguard.matrix.cell import Cell, Plugin
from splitguard.matrix.deployments import Networks, Task
from splitguard.matrix.plugins import as_plugin, built, plain
from splitguard.matrix.reading import MatrixError, Place, Source
from splitguard.matrix.refusals import why_refused
from splitguard.matrix.spec import Block, MatrixFile
from splitguard.registry import parse_spec

__all__ = ["Resolved", "resolve_file"]

#: Lists that are one value inside the training settings: Adam's betas, and the epochs of a multi-step schedule.
WHOLE_TRAINING = frozenset({"betas", "milestones"})
DEFAULT_PROFILE = str(Profile.HEAD_KNOWN)


@dataclass(frozen=True)
class Resolved:
    """A cell, and the reason why it is refused, if it is.

    Attributes:
        cell: what to run.
        reason: why nobody can mount this attack on this deployment, or why the deployment does not exist; else None.
        deployable: the deployment itself exists, so that it can be trained whatever becomes of the attack.
    """

    cell: Cell
    reason: str | None = None
    deployable: bool = True


@dataclass(frozen=True)
class _Aim:
    """An attack with what the plan must know of its class."""

    plugin: Plugin
    attack: Attack


@dataclass
class _Axes:
    """The resolved values on each axis of one block, in the order of the file."""

    tasks: list[Task] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    modes: list[tuple[Mode, Labels | None]] = field(default_factory=list)
    cuts: list[str | None] = field(default_factory=list)
    defenses: list[tuple[Plugin, ...]] = field(default_factory=list)
    trainings: list[dict[str, Any]] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)
    adaptive: list[bool] = field(default_factory=list)
    attacks: list[_Aim] = field(default_factory=list)
    breakers: dict[tuple[str, ...], list[_Aim]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)


def resolve_file(file: MatrixFile, source: Source) -> tuple[list[Resolved], Networks]:
    """All cells of a file, each once, in its order: deployments, then attacks, then seeds; and the networks they name.

    Raises:
        MatrixError: with one line for each name or setting that does not exist or does not fit.
    """
    resolver = _Resolver(source)
    axes = [resolver.axes(block, ("blocks", i) if file.blocks else ()) for i, block in enumerate(file.parts())]
    resolver.stop_at_problems()
    found: dict[str, Resolved] = {}
    for each in axes:
        for resolved in _crossed(each, resolver.networks):
            found.setdefault(resolved.cell.key(), resolved)
    return list(found.values()), resolver.networks


class _Resolver:
    """Resolves axis by axis and collects what is wrong."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._problems: list[str] = []
        self._at: Place = ()
        self.networks = Networks()

    def stop_at_problems(self) -> None:
        """Raises `MatrixError` if anything was wrong."""
        if self._problems:
            raise MatrixError(list(dict.fromkeys(self._problems)))

    def axes(self, block: Block, at: Place) -> _Axes:
        """The axes of one block; problems are noted, and what has one is left out."""
        self._at = at
        out = _Axes()
        for name in ("data", "model", "attack"):
            if getattr(block, name) is None:
                self._note((), f"needs the key {name!r}, as in {_EXAMPLES[name]}")
        for place, entry in _entries("data", block.data):
            with self._noting(place, entry):
                out.tasks += [self.networks.task(point) for point in self.networks.data_points(entry)]
        for place, entry in _entries("model", block.model):
            with self._noting(place, entry):
                out.models += self.networks.model_points(entry)
        for place, entry in _entries("mode", block.mode or ["vanilla"]):
            with self._noting(place, entry):
                out.modes += list(_modes(entry))
        for place, entry in _entries("defense", block.defense or ["none"]):
            out.defenses += self._defenses(place, entry)
        for place, entry in _entries("train", block.train or [{}]):
            with self._noting(place, entry):
                out.trainings += [_training(point) for point in combinations(entry, whole=WHOLE_TRAINING)]
        for place, entry in _entries("profile", block.profile or [DEFAULT_PROFILE]):
            with self._noting(place, entry):
                out.profiles.append(Profile.parse(entry))
        self._aim(block, out)
        out.cuts = [*block.cut] if block.cut else [None]
        for place, cut in _entries("cut", block.cut):
            with self._noting(place, cut):
                self.networks.check_cut(cut, out.models, out.tasks)
        out.adaptive = block.adaptive or [True]
        out.seeds = block.seeds or [0]
        return out

    def _aim(self, block: Block, out: _Axes) -> None:
        """The attacks of all deployments, and those that each defense brings."""
        for place, entry in _entries("attack", block.attack):
            with self._noting(place, entry):
                if entry == BREAKERS:
                    for defense in out.defenses:
                        out.breakers[_names(defense)] = [_Aim(*b) for b in breakers_of(defense, out.defenses)]
                else:
                    out.attacks += [_Aim(as_plugin(a, p), a) for a, p in built(ATTACKS, entry)]

    def _defenses(self, place: Place, entry: Any) -> list[tuple[Plugin, ...]]:
        """One entry: a defense, or a composition; each combination of their settings."""
        parts: list[list[Plugin]] = []
        listed = isinstance(entry, list | tuple)
        for number, part in enumerate(entry if listed else [entry]):
            with self._noting((*place, number) if listed else place, part):
                parts.append([as_plugin(d, told) for d, told in built(DEFENSES, part)])
        return [tuple(p for p in chosen if p.name != "none") for chosen in itertools.product(*parts)]

    @contextmanager
    def _noting(self, place: Place, entry: Any) -> Iterator[None]:
        """Turns an error about ``entry`` into a problem with the place of the setting that it names."""
        try:
            yield
        except SplitguardError as error:
            self._note((*place, *_named_in(str(error), entry)), error)

    def _note(self, place: Place, text: object) -> None:
        self._problems.append(self._source.problem(place, text, under=self._at))


_EXAMPLES = {"data": "data: faces", "model": "model: lenet", "attack": "attack: [white-box-inversion]"}


def _entries(name: str, values: list[Any] | None) -> Iterator[tuple[Place, Any]]:
    yield from (((name, number), value) for number, value in enumerate(values or []))


def _named_in(message: str, entry: Any) -> Place:
    """The keys of ``entry`` that lead to the setting, or the value, that an error message quotes or else mentions."""
    places = list(_places(entry))
    words = set(re.findall(r"[\w-]+", message))
    rules: tuple[Callable[[Place, Any], bool], ...] = (
        lambda place, value: repr(place[-1]) in message,
        lambda place, value: isinstance(value, str) and repr(value) in message,
        lambda place, value: place[-1] in words,
    )
    for speaks_of in rules:
        found = [place for place, value in places if speaks_of(place, value)]
        if found:
            return max(found, key=len)
    return ()


def _places(entry: Any) -> Iterator[tuple[Place, Any]]:
    """Every key inside ``entry``, with the value under it."""
    for key, value in entry.items() if isinstance(entry, Mapping) else ():
        yield (key,), value
        yield from (((key, *place), inner) for place, inner in _places(value))


def _modes(entry: Any) -> Iterator[tuple[Mode, Labels | None]]:
    name, settings = parse_spec(entry, what="mode")
    if name not in tuple(Mode):
        raise BadSetting(near_miss(name, [m.value for m in Mode], what="mode"))
    for key in settings:
        if key != "labels":
            raise BadSetting(near_miss(key, ("labels",), what=f"setting of the mode {name!r}:"))
    for point in combinations(settings):
        owner = point.get("labels")
        if owner is not None and owner not in tuple(Labels):
            raise BadSetting(near_miss(str(owner), [o.value for o in Labels], what="'labels' owner"))
        yield Mode(name), None if owner is None else Labels(owner)


def _training(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a training; those that have no effect take their default, so that equal trainings share a key."""
    training = Training.parse(settings)
    if training.head == "trained":
        training = dataclasses.replace(training, pretrain_epochs=None)
    out: dict[str, Any] = plain(dataclasses.asdict(training))
    if training.release == "always":
        del out["release"]  # keys from before there was a choice stay valid
    return out


def _crossed(axes: _Axes, networks: Networks) -> Iterator[Resolved]:
    """The product of all axes."""
    deployments = itertools.product(axes.tasks, axes.models, axes.modes, axes.cuts, axes.defenses, axes.trainings)
    for task, model, (mode, owner), cut, defense, training in deployments:
        spot = networks.spot(model, task, mode=mode, owner=owner, cut=cut, defense=defense)
        aims = [*axes.attacks, *axes.breakers.get(_names(defense), ())]
        for profile, adaptive, aim in itertools.product(axes.profiles, axes.adaptive, aims):
            reason = spot.reason or why_refused(
                aim.attack, task.data, mode=mode, labels=spot.labels, profile=profile, defense=defense
            )
            for seed in axes.seeds:
                cell = Cell(
                    data=task.data,
                    model=model,
                    mode=mode.value,
                    labels=spot.labels.value,
                    base=spot.base,
                    cuts=spot.cuts,
                    defense=defense,
                    training=training,
                    attack=aim.plugin,
                    goal=aim.attack.goal.value,
                    active=aim.attack.seat in (Seat.SERVER, Seat.CLIENT),
                    profile=str(profile),
                    adaptive=adaptive,
                    seed=seed,
                )
                yield Resolved(cell, reason, deployable=spot.reason is None)


def _names(defense: tuple[Plugin, ...]) -> tuple[str, ...]:
    return tuple(part.name for part in defense)
