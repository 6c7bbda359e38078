# SPDX-License-Identifier: Apache-2.0
"""Who sees what: the parties, what the wire shows each of them, and what a profile adds.

`on_the_wire` is the table of the documentation as code; the tests walk it cell by cell. Nothing else in
splitguard decides what an adversary may read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Flag, IntEnum, StrEnum, auto
from functools import reduce
from operator import or_

from splitguard.errors import BadSetting, NotSupported, near_miss

__all__ = ["Goal", "Labels", "Mode", "Party", "Profile", "Seat", "Sees", "Threat", "grants", "on_the_wire", "refusal"]


class Mode(StrEnum):
    """How the parties take turns."""

    VANILLA = "vanilla"
    U_SHAPED = "u-shaped"
    SPLITFED = "splitfed"
    CENTRALIZED = "centralized"


class Labels(StrEnum):
    """Who owns the labels: the client, which sends them; the server; or the client, which keeps them."""

    SENT = "sent"
    SERVER = "server"
    CLIENT = "client"


class Party(StrEnum):
    """Who attacks."""

    SERVER = "server"
    CLIENT = "client"
    PEER = "other client"
    FED_SERVER = "fed server"


class Seat(StrEnum):
    """When and where an attack sits.

    AFTER reads the view when training is over. BESIDE watches each step and changes nothing. SERVER replaces
    what the server returns. CLIENT replaces the gradients of one client's own layers.
    """

    AFTER = "after"
    BESIDE = "beside"
    SERVER = "server"
    CLIENT = "client"


class Goal(StrEnum):
    """What an attack is after; goals are never merged into one number."""

    INPUTS = "inputs"
    LABELS = "labels"
    CANDIDATES = "candidates"
    ATTRIBUTE = "attribute"
    MEMBERSHIP = "membership"
    FUNCTIONALITY = "functionality"


class Profile(IntEnum):
    """How much the adversary knows beside the wire; each includes the ones before it."""

    BLACK_BOX = 0
    ARCHITECTURE = 1
    QUERY = 2
    HEAD_KNOWN = 3
    ACTIVE = 4

    def __str__(self) -> str:
        return self.name.lower().replace("_", "-")

    @classmethod
    def parse(cls, text: str) -> Profile:
        """The profile written as in ``"head-known"``; an unknown one names near misses."""
        names = {str(p): p for p in cls}
        if text not in names:
            raise BadSetting(near_miss(text, names, what="profile"))
        return names[text]


class Sees(Flag):
    """The kinds of knowledge that can be granted.

    LABEL_GRAD is the gradient that comes from the label owner to somebody who is not told the labels: the cut
    gradient for a client whose labels the server holds, the returned gradient for the server in u-shaped.
    """

    NOTHING = 0
    SMASHED = auto()
    LABELS = auto()
    FEATURES = auto()
    CUT_GRAD = auto()
    RETURNED_GRAD = auto()
    LABEL_GRAD = auto()
    BODY = auto()
    INPUTS = auto()
    HEAD = auto()
    TAIL = auto()
    UPDATES = auto()
    AUX = auto()
    ARCHITECTURE = auto()
    QUERY = auto()
    KNOWN = auto()
    CANDIDATES = auto()

    def __str__(self) -> str:
        return ", ".join((f.name or "").lower().replace("_", " ") for f in self) or "nothing"


def on_the_wire(party: Party, mode: Mode, labels: Labels) -> Sees:
    """What ``party`` sees without any knowledge beyond its own part in the protocol.

    Server: smashed data of all rows with their ids, the body at every step, the cut gradient that it computes;
    the labels, or else the gradient returned at the second cut. Client: its own rows, head, tail, smashed data
    and gradients; features if it holds the tail; labels unless the server owns them. Other clients: the head
    (and tail) that they are handed. Fed server (splitfed): every client's layers before and after each round, and, as
    the two collude, all that the server sees. What the server gains by that, the clients' weights, is the profile
    head-known: a server that is told nothing is one of a lower profile.
    """
    if mode is Mode.CENTRALIZED:
        return Sees.NOTHING
    has_tail = labels is Labels.CLIENT
    own = Sees.HEAD | Sees.TAIL if has_tail else Sees.HEAD
    match party:
        case Party.SERVER:
            seen = Sees.SMASHED | Sees.BODY | Sees.CUT_GRAD
            hidden = Sees.FEATURES | Sees.RETURNED_GRAD | Sees.LABEL_GRAD
            return seen | (hidden if has_tail else Sees.LABELS)
        case Party.CLIENT:
            seen = own | Sees.INPUTS | Sees.SMASHED | Sees.CUT_GRAD
            seen |= Sees.LABEL_GRAD if labels is Labels.SERVER else Sees.LABELS
            return seen | (Sees.FEATURES | Sees.RETURNED_GRAD if has_tail else Sees.NOTHING)
        case Party.PEER:
            return own
        case Party.FED_SERVER:
            if mode is not Mode.SPLITFED:
                return Sees.NOTHING
            return Sees.UPDATES | own | on_the_wire(Party.SERVER, mode, labels)


def grants(profile: Profile, labels: Labels = Labels.SENT) -> Sees:
    """What ``profile`` adds to the wire: auxiliary data, then architecture, queries, and the clients' weights."""
    added = Sees.AUX | Sees.KNOWN | Sees.CANDIDATES
    if profile >= Profile.ARCHITECTURE:
        added |= Sees.ARCHITECTURE
    if profile >= Profile.QUERY:
        added |= Sees.QUERY
    if profile >= Profile.HEAD_KNOWN:
        added |= Sees.HEAD | (Sees.TAIL if labels is Labels.CLIENT else Sees.NOTHING)
    return added


@dataclass(frozen=True)
class Threat:
    """What an attack needs, as data: which parties can mount it, and what they must see.

    Attributes:
        needs: the attack cannot run without these.
        parties: who can mount it, in order of preference; a client only on its own rows.
        uses: further knowledge that it reads where it is granted; a view shows nothing beyond ``needs`` and ``uses``.
        active: it deviates from the protocol.
    """

    needs: Sees
    parties: tuple[Party, ...] = (Party.SERVER,)
    uses: Sees = Sees.AUX
    active: bool = False

    def profile(self, party: Party, mode: Mode, labels: Labels) -> Profile | None:
        """The least profile with which ``party`` can mount it there; None if no profile suffices."""
        if self.active:
            return Profile.ACTIVE if self._short(party, mode, labels, Profile.ACTIVE) is Sees.NOTHING else None
        return next((p for p in Profile if self._short(party, mode, labels, p) is Sees.NOTHING), None)

    def after_reading(self, read: Sees) -> Threat:
        """The threat of an attack that needed all that it read of its further uses."""
        return replace(self, needs=self.needs | (read & self.uses))

    def _short(self, party: Party, mode: Mode, labels: Labels, profile: Profile) -> Sees:
        """What is still missing under ``profile``."""
        wire = on_the_wire(party, mode, labels)
        if wire is Sees.NOTHING:
            return self.needs
        return self.needs & ~(wire | grants(profile, labels))


def refusal(
    threat: Threat, goal: Goal, *, mode: Mode, labels: Labels, profile: Profile, labels_defended: bool = False
) -> tuple[Party | None, Profile | None, str | None]:
    """Which party mounts the attack there, the least profile it needs, and if nobody can, the reason.

    Args:
        threat: of the attack.
        goal: of the attack.
        mode: of the deployment.
        labels: who owns them there.
        profile: the strongest adversary considered.
        labels_defended: a defense changes labels before they are used, so that a server to whom they are sent is not
            given the true ones.

    Returns:
        ``(party, least profile, None)`` where it can be mounted within ``profile``, else ``(None, least, reason)``.
    """
    if mode is Mode.CENTRALIZED:
        return None, None, "nothing crosses a cut in centralized training"
    reasons: list[str] = []
    least: Profile | None = None
    for party in threat.parties:
        defended = labels_defended and party in (Party.SERVER, Party.FED_SERVER) and labels is Labels.SENT
        if goal is Goal.LABELS and Sees.LABELS in on_the_wire(party, mode, labels) and not defended:
            reasons.append(f"this adversary (the {party}) is given the labels")
            continue
        needed = threat.profile(party, mode, labels)
        if needed is None:
            missing = threat._short(party, mode, labels, Profile.ACTIVE)
            reasons.append(f"the {party} never sees: {missing}")
        elif needed > profile:
            least = needed if least is None else min(least, needed)
            reasons.append(f"it needs the profile {needed}; the strongest considered here is {profile}")
        else:
            return party, needed, None
    return None, least, "; ".join(dict.fromkeys(reasons))


def check_labels(labels: Labels, cuts: int, mode: Mode) -> None:
    """Refuses label ownership that the number of cuts does not allow.

    Raises:
        NotSupported: labels stay at the client exactly if there is a tail, that is, two cuts.
    """
    if (labels is Labels.CLIENT) != (cuts == 2):
        raise NotSupported(
            f"labels: {labels} with {cuts} cut{'s' * (cuts != 1)} in {mode}: labels stay at the client exactly if it "
            "holds a tail. Give two cuts with labels: client, or one cut with labels: sent or server."
        )


def everything() -> Sees:
    """All kinds of knowledge at once."""
    return reduce(or_, Sees, Sees.NOTHING)
