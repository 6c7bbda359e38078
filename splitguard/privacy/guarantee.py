# SPDX-License-Identifier: Apache-2.0
"""What a deployment guarantees along one channel, with all that an epsilon means nothing without."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from typing import Any, Literal, get_args

from splitguard.errors import BadSetting, UnknownName, near_miss
from splitguard.privacy.accounting import verdict

__all__ = ["Channel", "Guarantee", "Neighbours", "compose"]

Channel = Literal["inputs", "labels", "head-weights"]
Neighbours = Literal["replace-one", "zero-out", "add-remove"]

_SUBJECT = {
    "inputs": ("Each client input", "release"),
    "labels": ("Each label", "release"),
    "head-weights": ("Each training row", "use"),
}
# The strongest statement first.
_SCOPES = {
    "epsilon": "the adversary's whole view",
    "epsilon_rows": "a row's own messages",
    "epsilon_query": "a query",
}


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """An (epsilon, delta) statement about one channel; `str` writes it as one sentence.

    An epsilon that cannot be stated is None, never 0 and never infinite, and then ``exclusions`` must say why.

    Attributes:
        channel: what is protected: ``"inputs"``, ``"labels"`` or ``"head-weights"``.
        epsilon_rows: for a row's own T messages alone; what other rows' messages or later weights give away of it is
            not covered.
        epsilon: for the adversary's whole view; at least ``epsilon_rows``.
        epsilon_query: for one query after training.
        delta: in [0, 1), the same for all three; 0 for randomised response.
        adjacency: ``"replace-one"`` (any value against any other), ``"zero-out"`` (a row against the zero row), or
            ``"add-remove"`` (DP-SGD, for head weights).
        sensitivity: Delta in L2, in units of what is released; None where the likelihood ratio is exact instead.
        T: how many messages of one row ``epsilon_rows`` and ``epsilon`` account for, at least 1.
        adversary: a noun phrase, as in ``"the server"``.
        mechanism: a noun phrase, as in ``"a clip to norm 1 and Gaussian noise of standard deviation 3.8"``.
        exclusions: clauses: why an epsilon is None, or what is not covered.

    Raises:
        BadSetting: for a value outside its range, or an epsilon that is None without a reason.
    """

    channel: Channel
    epsilon_rows: float | None
    epsilon: float | None
    epsilon_query: float | None
    delta: float
    adjacency: Neighbours
    sensitivity: float | None
    T: int
    adversary: str
    mechanism: str
    exclusions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, known in (("channel", Channel), ("adjacency", Neighbours)):
            if getattr(self, field) not in get_args(known):
                raise BadSetting(near_miss(str(getattr(self, field)), get_args(known), what=field))
        for field in _SCOPES:
            value = getattr(self, field)
            if value is not None and not 0 <= value < math.inf:
                raise BadSetting(
                    f"{field} must be finite and at least 0; got {value!r}. Without a guarantee it is None, and "
                    "exclusions say why"
                )
        empty = [field for field in _SCOPES if getattr(self, field) is None]
        if empty and not self.exclusions:
            raise BadSetting(f"{' and '.join(empty)} is None: say why in exclusions, a clause each")
        if self.epsilon is not None and self.epsilon_rows is not None and self.epsilon < self.epsilon_rows:
            raise BadSetting(
                f"epsilon={self.epsilon:g} is below epsilon_rows={self.epsilon_rows:g}, but a row's own messages are "
                "part of the adversary's whole view: what covers the view covers them"
            )
        if not 0 <= self.delta < 1:
            raise BadSetting(f"delta must lie in [0, 1); got {self.delta!r}")
        if self.sensitivity is not None and not 0 < self.sensitivity < math.inf:
            raise BadSetting(f"sensitivity must be positive and finite, or None; got {self.sensitivity!r}")
        if not isinstance(self.T, int) or self.T < 1:
            raise BadSetting(f"T must be a whole number of at least 1; got {self.T!r}")
        if isinstance(self.exclusions, str) or not all(isinstance(clause, str) for clause in self.exclusions):
            raise BadSetting(f"exclusions must be a tuple of clauses; got {self.exclusions!r}")
        object.__setattr__(self, "exclusions", tuple(self.exclusions))

    def voided(self, why: str) -> Guarantee:
        """This guarantee with every epsilon taken back, because of ``why``; the other clauses stay."""
        return dataclasses.replace(
            self, epsilon=None, epsilon_rows=None, epsilon_query=None, exclusions=(why, *self.exclusions)
        )

    def __str__(self) -> str:
        what, messages = _SUBJECT[self.channel]
        seen = f"all T={self.T} {messages}s of it" if self.T > 1 else f"the single {messages} of it (T=1)"
        terms = f"{self.adjacency} adjacency"
        if self.sensitivity is not None:
            terms += f", L2 sensitivity {self.sensitivity:.4g}"
        main = self.epsilon_rows if self.epsilon is None else self.epsilon
        scope = (
            "" if main is None else " and nothing else" if self.epsilon is None else " and everything else in its view"
        )
        parts = [f"{what} {self._protected(main)} ({terms}) against {self.adversary} that observes {seen}{scope}"]
        if self.epsilon is not None and self.epsilon_rows is not None and self.epsilon != self.epsilon_rows:
            parts.append(f"against its own messages alone it {self._protected(self.epsilon_rows)}")
        if self.epsilon_query is not None:
            parts.append(f"one query {self._protected(self.epsilon_query)}")
        parts.append(f"the mechanism is {self.mechanism}")
        if self.channel != "head-weights":  # DP-SGD may count it, against those who see nothing but weights
            parts.append("nothing is gained from subsampling, as whose message it is can be seen")
        empty = [name for field, name in _SCOPES.items() if getattr(self, field) is None]
        if self.exclusions:
            lead = f"no epsilon is stated for {', nor for '.join(empty)}" if empty else "not covered"
            parts.append(f"{lead}: {', and '.join(self.exclusions)}")
        return f"{'; '.join(parts)}."

    def _protected(self, value: float | None) -> str:
        """The predicate with the pair; the epsilon is rounded up, for it is an upper bound."""
        if value is None:
            return "has no stated guarantee"
        pair = f"({_rounded_up(value)}, {self.delta:.4g})-DP"
        worthless = verdict(value)
        return f"has {worthless}, only {pair}" if worthless else f"is protected by {pair}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values under the attributes' names, for JSON; None stays None."""
        return {**dataclasses.asdict(self), "exclusions": list(self.exclusions)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Guarantee:
        """The inverse of `as_dict`.

        Raises:
            UnknownName: for a key that is no attribute, with near misses.
            BadSetting: for a missing key, or a value outside its range.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in names:
                raise UnknownName(near_miss(key, names, what="attribute of a guarantee:"))
        if missing := sorted(names - set(values) - {"exclusions"}):
            raise BadSetting(f"a guarantee needs {', '.join(missing)} too; empty is written as None")
        return cls(**{**values, "exclusions": tuple(values.get("exclusions", ()))})


def compose(guarantees: Iterable[Guarantee]) -> tuple[Guarantee, ...]:
    """What stands of the guarantees of several defenses in one deployment.

    Along one channel what comes after an accounted release is post-processing: the smaller epsilon stands, never a sum.
    A guarantee is dropped where another one with the same channel, adversary and adjacency is at least as strong in
    every epsilon and in delta (an epsilon that is not stated is the weakest). What remains stands side by side: other
    channels, and along one channel statements that do not imply each other, each true by itself.

    Returns:
        The guarantees that stand, in their order.
    """
    kept: list[Guarantee] = []
    for new in guarantees:
        if any(_implies(old, new) for old in kept):
            continue
        kept = [old for old in kept if not _implies(new, old)] + [new]
    return tuple(kept)


def _implies(strong: Guarantee, weak: Guarantee) -> bool:
    frame = ("channel", "adversary", "adjacency")
    return all(getattr(strong, field) == getattr(weak, field) for field in frame) and all(
        a <= b for a, b in zip(_strength(strong), _strength(weak), strict=True)
    )


def _strength(one: Guarantee) -> tuple[float, ...]:
    """Smaller is stronger, entry by entry; without any epsilon, delta says nothing."""
    values = [math.inf if (value := getattr(one, field)) is None else value for field in _SCOPES]
    return (*values, math.inf if min(values) == math.inf else one.delta)


def _rounded_up(value: float) -> str:
    """Four significant digits, up; what is off by less than 1e-8 of itself is rounding and stays."""
    up = Context(prec=4, rounding=ROUND_CEILING).create_decimal_from_float(value * (1 - 1e-8))
    return f"{float(up):.4g}"
