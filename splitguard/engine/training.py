# SPDX-License-Identifier: Apache-2.0
"""The settings of a training, and the optimizers and schedules that they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import nn

from splitguard.data.augment import augment
from splitguard.errors import BadSetting, UnknownName, near_miss

__all__ = ["Training"]

PARTS = ("head", "body", "tail")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}
SCHEDULES: dict[str, Callable[..., torch.optim.lr_scheduler.LRScheduler]] = {
    "step": torch.optim.lr_scheduler.StepLR,
    "multistep": torch.optim.lr_scheduler.MultiStepLR,
    "cosine": torch.optim.lr_scheduler.CosineAnnealingLR,
    "exponential": torch.optim.lr_scheduler.ExponentialLR,
}
Choices = Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """How a deployment is trained; plain data, so that it can be a key and a line in a file.

    Attributes:
        epochs: passes over the training rows.
        batch_size: rows a client sends at once.
        optimizer: ``{"name": "sgd" | "adam" | "adamw" | "rmsprop", **torch's settings}``, for all parties, or one such
            mapping each under ``head``, ``body`` and ``tail``.
        schedule: ``{"name": "step" | "multistep" | "cosine" | "exponential", **torch's settings}``, stepped once an
            epoch (``cosine`` takes the number of epochs as its period by itself), likewise for all parties or for each.
        head: ``trained``; or ``frozen``: pre-trained together with the rest on auxiliary rows, then public and fixed.
        pretrain_epochs: how long, for a frozen head; None means ``epochs``, and 0 leaves it at its random weights, as
            where auxiliary rows have no labels.
        release: ``always``: a row is sent in every epoch; ``once``: in the first one only, and the server goes on with
            what it has, so that T = 1. It takes a frozen head, whose output for a row never changes, and no augment.
        augment: ``{"flip": true, "crop": 4}``; member victims are never augmented.
        turn: in vanilla and u-shaped, whether the clients take turns by ``batch`` or by ``epoch``.
        average_every: in splitfed, the number of parallel rounds between two averagings, or ``epoch``.
        evaluate: test accuracy after the ``last`` epoch only, or after each ``epoch``; each evaluation sends the test
            rows once.
        device: ``auto``, ``cpu`` or ``cuda``; attacks after the session work there too.
        precision: ``float32``, ``float64``, or ``bfloat16`` for autocast.
        threads: torch threads; part of the results, since one thread and two round differently.
        noise: ``seeded`` draws the defense's noise from the seed, for evaluation; ``os`` from the operating system, as
            a real deployment must: such a session can be neither repeated nor resumed, since what it sent after its
            last checkpoint would be missing in its ledger. Whoever starts it again on the same rows sends them more
            often than its guarantee counts.
        context_epoch: the epoch of which all rows of one client are kept for label attacks.
        checkpoint_every: rounds between two checkpoints within an epoch; None checkpoints after each epoch.
    """

    epochs: int = 5
    batch_size: int = 64
    optimizer: Choices = field(default_factory=lambda: {"name": "sgd", "lr": 0.05, "momentum": 0.9})
    schedule: Choices | None = None
    head: Literal["trained", "frozen"] = "trained"
    pretrain_epochs: int | None = None
    release: Literal["always", "once"] = "always"
    augment: Choices | None = None
    turn: Literal["batch", "epoch"] = "batch"
    average_every: int | Literal["epoch"] = "epoch"
    evaluate: Literal["last", "epoch"] = "last"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    threads: int = 1
    noise: Literal["seeded", "os"] = "seeded"
    context_epoch: int = 0
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        for name, (least, *instead) in _WHOLE.items():
            value = getattr(self, name)
            if value in instead or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
                continue
            other = "".join(f", or {word}" for word in instead if word is not None)
            raise BadSetting(f"train: {name} must be a whole number of at least {least}{other}; got {value!r}")
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise BadSetting(f"train: {near_miss(str(getattr(self, name)), allowed, what=name)}")
        self._check_augment()
        if self.release == "once" and (self.head != "frozen" or self.augment):
            raise BadSetting(
                f"train: release: once needs head: frozen and no augment, for the server goes on with what it has; got "
                f"head: {self.head}, augment: {self.augment}"
            )
        probe = [nn.Parameter(torch.zeros(1))]
        for part in PARTS:
            self.make_schedule(part, self.make_optimizer(part, probe))

    def _check_augment(self) -> None:
        """Tries the augmentation on no image at all, so that what a training would refuse is refused here."""
        if self.augment is None:
            return
        if not isinstance(self.augment, Mapping) or not all(isinstance(key, str) for key in self.augment):
            raise BadSetting(f"train: augment is written as {{flip: true, crop: 4}}; got {self.augment!r}")
        augment(torch.zeros(0, 1, 1, 1), self.augment, torch.Generator())

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Training:
        """A training from a mapping; an unknown key names near misses."""
        known = {f.name for f in fields(cls)}
        for key in settings:
            if key not in known:
                raise UnknownName(near_miss(str(key), known, what="train setting"))
        return cls(**settings)

    def make_optimizer(self, part: str, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of ``head``, ``body`` or ``tail``.

        Raises:
            UnknownName: for its name. BadSetting: for settings that torch refuses.
        """
        name, settings = _chosen(self.optimizer, part, "optimizer")
        if name not in OPTIMIZERS:
            raise UnknownName(near_miss(name, OPTIMIZERS, what="optimizer"))
        if name == "sgd" and "lr" not in settings:
            raise BadSetting("train: the optimizer sgd needs lr, as in {name: sgd, lr: 0.05}")
        try:
            return OPTIMIZERS[name](parameters, **settings)
        except (TypeError, ValueError, IndexError) as error:
            raise BadSetting(f"train: optimizer {name!r} with {settings}: {error}") from None

    def make_schedule(self, part: str, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler | None:
        """The schedule of ``head``, ``body`` or ``tail``, or None."""
        if self.schedule is None:
            return None
        name, settings = _chosen(self.schedule, part, "schedule")
        if name not in SCHEDULES:
            raise UnknownName(near_miss(name, SCHEDULES, what="schedule"))
        if name == "cosine":
            settings = {"T_max": max(self.epochs, 1), **settings}
        try:
            return SCHEDULES[name](optimizer, **settings)
        except (TypeError, ValueError) as error:
            raise BadSetting(f"train: schedule {name!r} with {settings}: {error}") from None

    def resolve_device(self) -> torch.device:
        """The device to train on: with ``auto``, cuda where there is one."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise BadSetting("train: device cuda was asked for and torch finds none; use device: auto or cpu")
        return torch.device(self.device)

    def attack_device(self) -> torch.device:
        """The device to attack the finished session on: the same, or main memory where torch finds no other by now."""
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")


#: The least value of each whole number, and what may stand there instead.
_WHOLE: dict[str, tuple[Any, ...]] = {
    "epochs": (0,),
    "batch_size": (1,),
    "threads": (1,),
    "context_epoch": (0,),
    "pretrain_epochs": (0, None),
    "checkpoint_every": (1, None),
    "average_every": (1, "epoch"),
}
_ALLOWED: dict[str, tuple[str, ...]] = {
    "head": ("trained", "frozen"),
    "release": ("always", "once"),
    "turn": ("batch", "epoch"),
    "evaluate": ("last", "epoch"),
    "device": ("auto", "cpu", "cuda"),
    "precision": ("float32", "float64", "bfloat16"),
    "noise": ("seeded", "os"),
}


def _chosen(choices: Choices, part: str, what: str) -> tuple[str, dict[str, Any]]:
    """The name and settings for one part, given for all parts or for each; a part not named does as the head."""
    wanted = f"train: {what} is {{name: ..., settings}} or one such mapping for each of {PARTS}; got {choices!r}"
    if not isinstance(choices, Mapping):
        raise BadSetting(wanted)
    if "name" not in choices:
        if not choices or set(choices) - set(PARTS):
            raise BadSetting(wanted)
        choices = next(choices[named] for named in (part, *PARTS) if named in choices)
        if not isinstance(choices, Mapping) or "name" not in choices:
            raise BadSetting(wanted)
    settings = {k: v for k, v in choices.items() if k != "name"}
    return str(choices["name"]).lower(), settings
