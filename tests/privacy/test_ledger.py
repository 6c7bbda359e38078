# SPDX-License-Identifier: Apache-2.0
"""The ledger counts like a dictionary, refuses all or nothing, and survives a resume."""

from __future__ import annotations

import io
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitguard.errors import BadSetting, ReleaseRefused
from splitguard.privacy import Ledger

IDS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5), max_size=8)
PHASES = ("training", "evaluation", "query")
CHARGES = st.lists(st.tuples(IDS, st.sampled_from(PHASES)), max_size=12)


def ids(*rows: int) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int64)


@given(
    CHARGES,
    st.integers(0, 4) | st.fixed_dictionaries({}, optional={p: st.integers(0, 4) for p in PHASES}),
    IDS,
)
def test_it_does_what_a_dictionary_does(
    charges: list[tuple[list[int], str]], planned: int | dict[str, int], known: list[int]
) -> None:
    ledger = Ledger(planned, ids=ids(*known))
    sent: dict[str, Counter[int]] = {phase: Counter() for phase in PHASES}
    most = planned if isinstance(planned, int) else max(planned.values(), default=0)
    for rows, phase in charges:
        after = {**sent, phase: sent[phase] + Counter(rows)}
        allowed = all(sum(after[p][i] for p in PHASES) <= most for i in rows)
        if not isinstance(planned, int):
            allowed = allowed and all(after[phase][i] <= planned.get(phase, 0) for i in rows)
            trained, limit = after["training"], planned.get("training", 0)
            allowed = allowed and all(not trained[i] or sum(after[p][i] for p in PHASES) <= limit for i in rows)
        before = ledger.state_dict()
        if allowed:
            ledger.charge(ids(*rows), phase)
            sent = after
        else:
            with pytest.raises(ReleaseRefused):
                ledger.charge(ids(*rows), phase)
            assert all(torch.equal(value, before[key]) for key, value in ledger.state_dict().items())
    everyone = sorted({*known, *(i for rows, _ in charges for i in rows)}, reverse=True)
    for phase in PHASES:
        assert ledger.count(ids(*everyone), phase).tolist() == [sent[phase][i] for i in everyone]
        assert ledger.most(phase) == max(sent[phase].values(), default=0)
    together = [sum(sent[phase][i] for phase in PHASES) for i in everyone]
    assert ledger.count(ids(*everyone)).tolist() == together
    assert ledger.most() == max(together, default=0)


def test_a_release_past_the_plan_is_refused_with_all_that_helps() -> None:
    ledger = Ledger({"training": 2, "evaluation": 1, "query": 1})
    ledger.charge(ids(7, 3, 9), "training")
    ledger.charge(ids(3), "training")
    ledger.charge(ids(7), "query")
    with pytest.raises(ReleaseRefused) as caught:
        ledger.charge(ids(9, 3, 8), "training")
    message = str(caught.value)
    assert "1 of 3 rows would be sent more often than planned, in phase 'training'" in message
    assert "planned 2 in training, 1 in evaluations, 1 in queries, 2 in all, got number 3 (ids 3)" in message
    assert "Nothing was counted" in message
    assert "Send less (epochs, evaluations, queries), or plan more releases" in message
    assert ledger.count(ids(3, 7, 8, 9)).tolist() == [2, 2, 0, 1]
    ledger.charge(ids(9, 8), "training")


def test_the_message_names_three_ids_at_most() -> None:
    with pytest.raises(ReleaseRefused, match=r"5 of 5 rows .* planned 0 in all, got number 1 \(ids 0, 1, 2, \.\.\.\)"):
        Ledger(0).charge(torch.arange(5), "query")


def test_a_number_limits_all_phases_together_and_a_phase_without_a_plan_sends_nothing() -> None:
    ledger = Ledger(2)
    ledger.charge(ids(1), "training")
    ledger.charge(ids(1), "query")
    with pytest.raises(ReleaseRefused, match="planned 2 in all"):
        ledger.charge(ids(1), "query")
    with pytest.raises(ReleaseRefused, match="planned 3 in training, 0 in evaluations, 0 in queries"):
        Ledger({"training": 3}).charge(ids(1), "query")


def test_phases_are_counted_apart_but_no_row_exceeds_the_largest_plan_in_all() -> None:
    ledger = Ledger({"training": 2, "evaluation": 3, "query": 1})
    for _ in range(3):
        ledger.charge(ids(8), "evaluation")
    with pytest.raises(ReleaseRefused, match="3 in all, got number 4"):
        ledger.charge(ids(8), "query")


@pytest.mark.parametrize("other", ["evaluation", "query"])
def test_a_training_row_is_sent_no_more_often_in_all_than_its_noise_was_set_for(other: str) -> None:
    """Where each row is sent once and five epochs are evaluated, T of a training row is 1."""
    plan = {"training": 1, "evaluation": 5, "query": 1}
    for first, second in (("training", other), (other, "training")):
        ledger = Ledger(plan)
        ledger.charge(ids(4), first)
        with pytest.raises(ReleaseRefused, match=r"got number 2 \(ids 4\)\. A row sent in training counts there"):
            ledger.charge(ids(4), second)
        ledger.charge(ids(5), second)


def test_a_row_that_occurs_twice_in_a_batch_is_sent_twice() -> None:
    ledger = Ledger(2)
    ledger.charge(ids(5, 5), "training")
    assert ledger.count(ids(5)).tolist() == [2]
    with pytest.raises(ReleaseRefused, match="got number 3"):
        Ledger(2).charge(ids(5, 5, 5), "training")


def test_a_resumed_session_goes_on_counting() -> None:
    ledger = Ledger({"training": 2})
    ledger.charge(ids(4, 1), "training")
    file = io.BytesIO()
    torch.save(ledger.state_dict(), file)
    file.seek(0)
    resumed = Ledger({"training": 2}, ids=ids(100))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    ledger.charge(ids(4), "training")  # goes its own way: nothing is shared
    assert resumed.count(ids(1, 4, 100)).tolist() == [1, 1, 0]
    resumed.charge(ids(4), "training")
    with pytest.raises(ReleaseRefused):
        resumed.charge(ids(4), "training")


def test_a_state_of_another_plan_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"planned for 2 in training, 0 in evaluations, .*, this one for 9 in all"):
        Ledger(9).load_state_dict(Ledger({"training": 2}).state_dict())


@pytest.mark.parametrize(
    ("rows", "got"),
    [
        (torch.tensor([1.0]), r"torch.float32 of shape \(1,\)"),
        (torch.tensor([[1]]), r"torch.int64 of shape \(1, 1\)"),
        ([1], "list"),
    ],
)
def test_ids_of_another_form_are_refused(rows: torch.Tensor, got: str) -> None:
    with pytest.raises(BadSetting, match=rf"ids must be an int64 tensor of shape \(N,\); got {got}"):
        Ledger(1).charge(rows, "training")


def test_bad_plans_and_phases_are_named() -> None:
    with pytest.raises(BadSetting, match=r"unknown phase 'train'\. Did you mean 'training'"):
        Ledger({"train": 1})
    with pytest.raises(BadSetting, match="unknown phase 'queries'"):
        Ledger(1).count(ids(1), "queries")
    for bad in (-1, 1.5, True):
        with pytest.raises(BadSetting, match="must be a whole number of releases"):
            Ledger(bad)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(BadSetting, match=r"planned\['query'\] must be a whole number"):
            Ledger({"query": bad})  # type: ignore[dict-item]  # on purpose
