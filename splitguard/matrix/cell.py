# SPDX-License-Identifier: Apache-2.0
"""One combination of the matrix as pure data, and the two hashes that say what it shares with others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

__all__ = ["KEY_VERSION", "Cell", "Plugin", "canonical", "digest"]

#: Raised when the meaning of a key changes; records of another version are then left alone and done again.
KEY_VERSION = 1
#: Training settings that change no number: where it runs, and how often it saves.
UNKEYED = ("device", "checkpoint_every")


def canonical(value: Any) -> str:
    """One text for one value: JSON with sorted keys and no spaces; 8.0 is 8; NaN and infinity are refused."""
    return json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """16 hex digits of the SHA-256 of `canonical`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def _whole(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _whole(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class Plugin:
    """An attack or a defense with every setting resolved.

    Attributes:
        name: in its registry.
        version: of its algorithm.
        settings: all of them, defaults included, plain data.
        told: the settings that the user wrote and that differ from the defaults; for people, no part of any key.
        moves_only: a defense that does nothing but move the cut; its training is the plain one there. No part of
            any key: the resolved cuts say it.
    """

    name: str
    version: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)
    moves_only: bool = False

    def __str__(self) -> str:
        told = ", ".join(f"{k}={_short(v)}" for k, v in self.told.items())
        return f"{self.name}({told})" if told else self.name

    @property
    def spec(self) -> dict[str, dict[str, Any]]:
        """What builds it again."""
        return {self.name: dict(self.settings)}

    def identity(self) -> dict[str, Any]:
        """What its keys are made of."""
        return {"name": self.name, "version": self.version, "settings": dict(self.settings)}


@dataclass(frozen=True)
class Cell:
    """One attack on one deployment with one seed, every name, setting and version resolved.

    Attributes:
        data: the data set and how it is split; a path is named by what it holds, ``digest``.
        model: its name and settings; a file of weights is named by what it holds, ``digest``.
        mode, labels: of the deployment.
        base: the cuts before any defense moved them, canonical names.
        cuts: the cuts that are used.
        defense: in the order of application; empty for none.
        training: all settings of `splitguard.engine.training.Training`.
        attack: who attacks.
        goal: what it is after; follows from the attack.
        active: the attack takes part in the training, so that it needs one of its own; follows from the attack.
        profile: the strongest adversary considered.
        adaptive: whether the attack may use what it knows of the defense.
        seed: of everything.
    """

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    mode: str
    labels: str
    base: tuple[str, ...]
    cuts: tuple[str, ...]
    defense: tuple[Plugin, ...]
    training: Mapping[str, Any]
    attack: Plugin
    goal: str
    active: bool
    profile: str
    adaptive: bool
    seed: int

    def key(self) -> str:
        """16 hex digits: the same for two cells exactly if every number in their records must be the same."""
        attack = {"attack": self.attack.identity(), "profile": self.profile, "adaptive": self.adaptive}
        return digest({**self._deployed(), **attack, "seed": self.seed, "kind": "cell"})

    def paired_key(self) -> str:
        """What an attacker who knows the defense shares with one who does not: both draw from it, and so draw alike."""
        return replace(self, adaptive=True).key()

    def deployment_key(self) -> str:
        """What all attacks and seeds of one deployment share, at one profile: one row of the summary."""
        return digest({**self._deployed(), "profile": self.profile, "adaptive": self.adaptive, "kind": "deployment"})

    def session_key(self) -> str:
        """What all cells share that need one training.

        The resolved cuts and the defenses that do more than move them, whatever an attacker is told. An active attack
        has a training of its own, and so everything about it is here. Not the device, the number of jobs, or any path.
        """
        identity = self._deployed()
        if self.active:
            told = {"active": self.attack.identity(), "profile": self.profile, "adaptive": self.adaptive}
            return digest({**identity, **told, "seed": self.seed, "kind": "session"})
        identity["defense"] = [d.identity() for d in self.acting]
        del identity["base"]
        identity["data"].pop("known", None)  # no label that the attacker is told changes the training
        return digest({**identity, "seed": self.seed, "kind": "session"})

    @property
    def acting(self) -> tuple[Plugin, ...]:
        """The defenses that do more than move the cut."""
        return tuple(d for d in self.defense if not d.moves_only)

    def honest(self) -> Cell:
        """The same deployment without an active attack in it."""
        return replace(self, active=False)

    def twin(self) -> Cell:
        """The undefended twin: same mode, labels, seed and original cut; no defense, the head trained.

        A head that is frozen is a protection too, so that its price is part of the accuracy drop.
        """
        training = {**self.training, "head": "trained", "pretrain_epochs": None}
        if training.get("release") == "once":  # which is for frozen heads
            del training["release"]
        return replace(self, defense=(), cuts=self.base, training=training, active=False)

    def _deployed(self) -> dict[str, Any]:
        """What training and attacks on one deployment depend on, apart from attack and seed."""
        return {
            "key_version": KEY_VERSION,
            "data": _unkeyed(self.data, ("path",)),
            "model": _unkeyed(self.model, ("weights",)),
            "mode": self.mode,
            "labels": self.labels,
            "base": list(self.base),
            "cuts": list(self.cuts),
            "defense": [d.identity() for d in self.defense],
            "training": _unkeyed(self.training, UNKEYED),
        }

    def label(self) -> str:
        """The cell in one line, for messages."""
        return f"{self.attack} on {self.deployment()}, seed {self.seed}"

    def deployment(self) -> str:
        """The deployment in one line, for messages."""
        return f"{self.mode} ({self.labels}) {'..'.join(self.base)} {self.defended()}"

    def defended(self) -> str:
        """The defense for people, a frozen head included: ``"gaussian(epsilon=8), head frozen"``."""
        parts = [" + ".join(map(str, self.defense)) or "none"]
        if self.training.get("head") == "frozen":
            parts.append("head frozen")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` is its inverse."""
        out: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return out

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cell:
        """The inverse of `to_json`.

        Raises:
            TypeError, KeyError: if fields are missing or unknown.
        """
        given = dict(value)
        given["defense"] = tuple(Plugin(**d) for d in given["defense"])
        given["attack"] = Plugin(**given["attack"])
        given["base"], given["cuts"] = tuple(given["base"]), tuple(given["cuts"])
        return cls(**given)


def _unkeyed(settings: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Settings without the named ones, at any depth."""
    return {k: _unkeyed(v, names) if isinstance(v, Mapping) else v for k, v in settings.items() if k not in names}


def _short(value: Any) -> str:
    """A setting for people: 8 rather than 8.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)
