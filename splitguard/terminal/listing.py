# SPDX-License-Identifier: Apache-2.0
"""``splitguard list``, ``show``, ``check`` and ``new``."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from splitguard.errors import BadSetting, UnknownName, near_miss
from splitguard.registry import Registry, Spec, parse_spec
from splitguard.terminal.console import plain_console

__all__ = ["check", "new", "show", "table"]

#: Stands where a registered class lacks what the table shows; another column says what.
BROKEN = "broken"
MISSING = "—"


def first_line(thing: Any) -> str:
    """The first sentence of a docstring."""
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def _attacks() -> list[dict[str, str]]:
    from splitguard.api import ATTACKS

    return [_attack(name, ATTACKS.get(name)) for name in ATTACKS]


def _attack(name: str, cls: Any) -> dict[str, str]:
    from splitguard.engine.roles import Attack
    from splitguard.engine.threat import Goal, Labels, Mode, Seat, Threat

    row = {"name": name, "goal": BROKEN}
    blank = {"seat": MISSING, "adversary": MISSING, "least profile": MISSING, "needs": MISSING, "paper": MISSING}
    if not (isinstance(cls, type) and issubclass(cls, Attack)):
        return {**row, **blank, "needs": "a class derived from Attack"}
    for part, kind in (("goal", Goal), ("threat", Threat), ("seat", Seat), ("paper", str)):
        if not isinstance(getattr(cls, part, None), kind):
            return {**row, **blank, "needs": f"the class attribute {part}, a {kind.__name__}"}
    combinations = [
        (Mode.VANILLA, Labels.SENT),
        (Mode.VANILLA, Labels.SERVER),
        (Mode.U_SHAPED, Labels.CLIENT),
        (Mode.SPLITFED, Labels.CLIENT),
    ]
    found = [cls.threat.profile(p, m, owner) for p in cls.threat.parties for m, owner in combinations]
    least = [profile for profile in found if profile is not None]
    if not least:
        return {**row, **blank, "needs": f"{cls.threat.needs}, which no party sees in any mode"}
    return {
        "name": name,
        "goal": str(cls.goal),
        "seat": str(cls.seat),
        "adversary": " or ".join(cls.threat.parties),
        "least profile": str(min(least)),
        "needs": str(cls.threat.needs),
        "paper": cls.paper,
    }


def _defenses() -> list[dict[str, str]]:
    from splitguard.api import DEFENSES

    return [_one_defense(name, DEFENSES.get(name)) for name in DEFENSES]


def _one_defense(name: str, cls: Any) -> dict[str, str]:
    from splitguard.engine.defense import Defense

    row = {"name": name, "acts on": BROKEN, "guarantee": MISSING, "paper": MISSING}
    if not (isinstance(cls, type) and issubclass(cls, Defense)):
        return {**row, "breakers": "needs a class derived from Defense"}
    try:
        breakers = ", ".join(map(_written, cls.breakers)) or "none known"
    except (BadSetting, TypeError) as error:
        return {**row, "breakers": str(error)}
    proved = "differential privacy" if cls.privacy is not Defense.privacy else "none"
    shown = {"acts on": str(cls.acts), "guarantee": proved, "paper": str(cls.paper)}
    return {"name": name, **shown, "breakers": breakers}


def _written(spec: Spec) -> str:
    """An attack as in a matrix file, on one line."""
    name, settings = parse_spec(spec, what="attack")
    return f"{name}({', '.join(f'{k}={v}' for k, v in settings.items())})" if settings else name


def _named(registry: Registry[Any]) -> list[dict[str, str]]:
    return [{"name": name, "what": first_line(registry.get(name))} for name in registry]


def _modes() -> list[dict[str, str]]:
    return [
        {"name": "vanilla", "what": "Clients take turns and hand the head on; the labels are sent, or the server's."},
        {"name": "u-shaped", "what": "Two cuts: the client holds head and tail, and labels never leave it."},
        {"name": "splitfed", "what": "Clients in parallel on one shared body; their heads are averaged, weighted."},
        {"name": "centralized", "what": "Baseline: the same network in one piece; nothing crosses a cut."},
    ]


def table(kind: str, *, as_json: bool) -> None:
    """Prints what is registered under ``kind``."""
    rows = _rows(kind)
    if as_json:
        print(json.dumps(rows))
        return
    out = Table(title=kind)
    for heading in rows[0]:
        out.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for row in rows:
        out.add_row(*(_cited(text) if heading == "paper" else text for heading, text in row.items()))
    plain_console().print(out)


def _cited(paper: str) -> str:
    """First author and year, as tables have room for; ``show`` and ``--json`` have the whole reference."""
    years = re.findall(r"\b(?:19|20)\d\d\b", paper)
    return f"{paper.partition(',')[0]} {years[-1]}" if years else paper


def _rows(kind: str) -> list[dict[str, str]]:
    if kind == "attacks":
        return _attacks()
    if kind == "defenses":
        return _defenses()
    if kind == "modes":
        return _modes()
    if kind == "models":
        from splitguard.models import MODELS

        return _named(MODELS)
    from splitguard.data import DATASETS

    return _named(DATASETS)


def _registries() -> dict[str, Registry[Any]]:
    from splitguard.api import ATTACKS, DEFENSES
    from splitguard.data import DATASETS
    from splitguard.models import MODELS

    return {"attack": ATTACKS, "defense": DEFENSES, "model": MODELS, "data set": DATASETS}


def show(name: str, *, as_json: bool) -> None:
    """Prints the docstring and the settings of whatever is called ``name``."""
    for what, registry in _registries().items():
        if name in registry or name in registry.broken:
            found = registry.get(name)
            text, settings = inspect.getdoc(found) or "", _settings(found)
            if as_json:
                print(json.dumps({"name": name, "kind": what, "what": text, "settings": settings}, default=str))
                return
            console = plain_console()
            console.print(Text.assemble((name, "bold"), f" ({what})\n"))
            console.print(text)
            if settings:
                console.print("\nSettings and their defaults:", settings)
            return
    everything = [n for r in _registries().values() for n in r]
    raise UnknownName(near_miss(name, everything, what="attack, defense, model or data set"))


def _settings(found: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(found):
        empty, factory = dataclasses.MISSING, dataclasses.MISSING
        return {
            f.name: f.default if f.default is not empty else f.default_factory() if f.default_factory is not factory
            else "(needed)"
            for f in dataclasses.fields(found)
            if f.init
        }  # fmt: skip
    parameters = inspect.signature(found).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        p.name: "(needed)" if p.default is inspect.Parameter.empty else p.default
        for p in parameters
        if p.kind not in kinds
    }


def check(name: str, *, as_json: bool) -> int:
    """Runs the contract of an attack or a defense; 1 if it does not pass."""
    from splitguard.api import ATTACKS, DEFENSES
    from splitguard.contract import check_attack, check_defense

    name = _registered(name) if ":" in name else name
    if name in ATTACKS or name in ATTACKS.broken:
        results = check_attack(name)
    elif name in DEFENSES or name in DEFENSES.broken:
        results = check_defense(name)
    else:
        raise UnknownName(near_miss(name, [*ATTACKS, *DEFENSES], what="attack or defense"))
    if as_json:
        print(json.dumps([dataclasses.asdict(r) for r in results]))
    else:
        for result in results:
            print(f"{'pass' if result.passed else 'FAIL'}  {result.name}  {result.detail}".rstrip())
    return int(not all(r.passed for r in results))


def _registered(place: str) -> str:
    """The name under which the class at ``module:Class`` files itself once it is imported."""
    from splitguard.api import ATTACKS, DEFENSES, Attack, Defense
    from splitguard.terminal.elsewhere import class_from

    registries: tuple[Registry[Any], ...] = (ATTACKS, DEFENSES)
    for registry in registries:
        registry.load()
    cls = class_from(place, (Attack, Defense), what="attack or defense", option="NAME")
    for registry in registries:
        for name in registry:
            if registry.get(name) is cls:
                return name
    table = "ATTACKS" if issubclass(cls, Attack) else "DEFENSES"
    raise BadSetting(f'{place} has no name to be checked by; write @{table}.add("a-name") above the class')


def new(kind: str, name: str, folder: Path | None) -> None:
    """Writes the one file of a new attack or defense from the template."""
    from splitguard.terminal import templates

    if not name.replace("-", "").isalnum() or not name[:1].isalpha() or name != name.lower():
        raise BadSetting(f"a name is lower case letters, digits and hyphens, as in my-{kind}; got {name!r}")
    registry = _registries()[kind]
    if name in registry:
        raise BadSetting(f"there is {'an' if kind == 'attack' else 'a'} {kind} called {name!r} already")
    path = (folder or Path(f"{kind}s")) / f"{name.replace('-', '_')}.py"
    if not path.parent.is_dir():
        raise BadSetting(
            f"the folder {path.parent} does not exist; run this at the top of a checkout, or give --folder"
        )
    if path.exists():
        raise BadSetting(f"{path} exists already")
    title = "".join(part.capitalize() for part in name.split("-"))
    template = templates.ATTACK if kind == "attack" else templates.DEFENSE
    path.write_text(template.replace("@NAME@", name).replace("@CLASS@", title))
    print(f"wrote {path}\nnext: fill it in, then run: {_checking(path, name, title, registry)}")


def _checking(path: Path, name: str, title: str, registry: Registry[Any]) -> str:
    """The command that checks a new file: by its name where splitguard finds it by itself, else by its place."""
    if any(path.parent.resolve() == folder.resolve() for folder in registry.folders()):
        return f"splitguard check {name}"
    return f"PYTHONPATH={shlex.quote(str(path.parent))} splitguard check {path.stem}:{title}"
