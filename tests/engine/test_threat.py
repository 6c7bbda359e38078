# SPDX-License-Identifier: Apache-2.0
"""Who sees what, cell by cell: the table is written out here once more, by hand, in the words of the documentation."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from splitguard.api import ATTACKS
from splitguard.engine.threat import Goal, Labels, Mode, Party, Profile, Sees, Threat, grants, on_the_wire, refusal
from splitguard.errors import BadSetting

SERVER_ALWAYS = {"smashed", "body", "cut grad"}
CLIENT_ALWAYS = {"inputs", "head", "smashed", "cut grad"}
TABLE: dict[tuple[str, str], set[str]] = {
    ("server", "sent"): SERVER_ALWAYS | {"labels"},
    ("server", "server"): SERVER_ALWAYS | {"labels"},
    ("server", "client"): SERVER_ALWAYS | {"features", "returned grad", "label grad"},
    ("client", "sent"): CLIENT_ALWAYS | {"labels"},
    ("client", "server"): CLIENT_ALWAYS | {"label grad"},
    ("client", "client"): CLIENT_ALWAYS | {"labels", "tail", "features", "returned grad"},
    ("other client", "sent"): {"head"},
    ("other client", "server"): {"head"},
    ("other client", "client"): {"head", "tail"},
}


def words(sees: Sees) -> set[str]:
    return set() if sees is Sees.NOTHING else set(str(sees).split(", "))


@pytest.mark.parametrize("mode", [Mode.VANILLA, Mode.U_SHAPED, Mode.SPLITFED])
@pytest.mark.parametrize(("party", "labels"), TABLE)
def test_the_table(party: str, labels: str, mode: Mode) -> None:
    assert words(on_the_wire(Party(party), mode, Labels(labels))) == TABLE[party, labels]


def test_the_fed_server_exists_only_in_splitfed() -> None:
    for labels in Labels:
        seen = words(on_the_wire(Party.FED_SERVER, Mode.SPLITFED, labels))
        own = {"updates", "head"} | ({"tail"} if labels is Labels.CLIENT else set())
        assert seen == own | TABLE["server", str(labels)]  # the two collude
        assert on_the_wire(Party.FED_SERVER, Mode.VANILLA, labels) is Sees.NOTHING


def test_nobody_sees_anything_in_centralized_training() -> None:
    for party, labels in itertools.product(Party, Labels):
        assert on_the_wire(party, Mode.CENTRALIZED, labels) is Sees.NOTHING


def test_profiles_add_in_order() -> None:
    added = [words(grants(p)) for p in Profile]
    assert added[0] == {"aux", "known", "candidates"}
    assert added[1] - added[0] == {"architecture"}
    assert added[2] - added[1] == {"query"}
    assert added[3] - added[2] == {"head"}
    assert added[4] == added[3]
    assert words(grants(Profile.HEAD_KNOWN, Labels.CLIENT)) - added[3] == {"tail"}
    for less, more in itertools.pairwise(added):
        assert less <= more


def test_profile_names_round_trip_and_near_misses_are_offered() -> None:
    for profile in Profile:
        assert Profile.parse(str(profile)) is profile
    with pytest.raises(BadSetting, match="Did you mean 'head-known'"):
        Profile.parse("head_known")


WHITE_BOX = Threat(Sees.SMASHED | Sees.HEAD)
QUERYING = Threat(Sees.SMASHED | Sees.QUERY)
FROM_GRADIENTS = Threat(Sees.LABEL_GRAD | Sees.KNOWN, (Party.SERVER, Party.CLIENT))


@pytest.mark.parametrize(
    ("threat", "goal", "labels", "profile", "party", "least"),
    [
        (WHITE_BOX, Goal.INPUTS, "sent", "head-known", "server", "head-known"),
        (WHITE_BOX, Goal.INPUTS, "sent", "query", None, "head-known"),
        (QUERYING, Goal.INPUTS, "client", "query", "server", "query"),
        (FROM_GRADIENTS, Goal.LABELS, "client", "black-box", "server", "black-box"),
        (FROM_GRADIENTS, Goal.LABELS, "server", "black-box", "client", "black-box"),
        (FROM_GRADIENTS, Goal.LABELS, "sent", "active", None, None),
        (Threat(Sees.SMASHED, active=True), Goal.INPUTS, "sent", "head-known", None, "active"),
        (Threat(Sees.SMASHED, active=True), Goal.INPUTS, "sent", "active", "server", "active"),
        (Threat(Sees.UPDATES, (Party.FED_SERVER,)), Goal.LABELS, "sent", "active", None, None),
    ],
)
def test_refusals(threat: Threat, goal: Goal, labels: str, profile: str, party: str | None, least: str | None) -> None:
    mode = Mode.U_SHAPED if labels == "client" else Mode.VANILLA
    got, needed, reason = refusal(threat, goal, mode=mode, labels=Labels(labels), profile=Profile.parse(profile))
    assert got == party
    assert (None if needed is None else str(needed)) == least
    assert (reason is None) == (party is not None)


def test_label_inference_against_a_party_that_is_given_the_labels_is_refused_in_those_words() -> None:
    _, _, reason = refusal(FROM_GRADIENTS, Goal.LABELS, mode=Mode.VANILLA, labels=Labels.SENT, profile=Profile.ACTIVE)
    assert reason is not None
    assert "is given the labels" in reason


STATED = Threat(Sees.SMASHED | Sees.LABELS, (Party.SERVER, Party.CLIENT))


def test_labels_that_a_defense_changed_are_a_goal_for_the_server_they_are_sent_to_and_for_nobody_else() -> None:
    def asked(labels: Labels, threat: Threat = STATED) -> tuple[Party | None, str | None]:
        party, _, reason = refusal(
            threat, Goal.LABELS, mode=Mode.VANILLA, labels=labels, profile=Profile.BLACK_BOX, labels_defended=True
        )
        return party, reason

    assert asked(Labels.SENT) == (Party.SERVER, None)
    _, reason = asked(Labels.SERVER)
    assert reason is not None
    assert "this adversary (the server) is given the labels" in reason
    _, reason = asked(Labels.SENT, Threat(Sees.SMASHED | Sees.LABELS, (Party.CLIENT,)))
    assert reason == "this adversary (the client) is given the labels"
    _, reason = asked(Labels.SENT, FROM_GRADIENTS)  # it computes the gradient itself, from what was stated
    assert reason == "the server never sees: label grad; this adversary (the client) is given the labels"


@pytest.mark.parametrize("name", ["sdar-labels", "pcat-labels"])
def test_attacks_through_a_tail_of_their_own_are_refused_where_the_client_has_none(name: str) -> None:
    attack = ATTACKS.build(name)
    where: dict[str, Any] = {"labels": Labels.SENT, "profile": Profile.ACTIVE, "labels_defended": True}
    party, _, reason = refusal(attack.threat, attack.goal, mode=Mode.VANILLA, **where)
    assert party is None
    assert reason == "the server never sees: features"
    u_shaped = {**where, "labels": Labels.CLIENT}
    assert refusal(attack.threat, attack.goal, mode=Mode.U_SHAPED, **u_shaped)[0] is Party.SERVER
