"""The table of legal moves."""

from __future__ import annotations

import pytest

from toril.states import CLAIMABLE, FINISHED, MOVES, Move, State, legal


def test_the_states_are_those_of_bullmq_without_paused() -> None:
    assert {state.value for state in State} == {
        "waiting",
        "prioritized",
        "delayed",
        "active",
        "waiting-children",
        "completed",
        "failed",
    }
    assert f"{State.WAITING_CHILDREN}" == "waiting-children"


def test_a_job_is_born_somewhere_and_never_running_or_finished() -> None:
    born = {move.after for move in MOVES if move.before is None}

    assert born == {State.WAITING, State.PRIORITIZED, State.DELAYED, State.WAITING_CHILDREN}


def test_settling_and_recovering_are_the_only_doors_out_of_active() -> None:
    doors = {move.operation for move in MOVES if move.before is State.ACTIVE}

    assert doors == {
        "completed",
        "failed",
        "retried",
        "delayed",
        "throttled",
        "released",
        "awaiting-children",
        "recover",
        "remove",
    }


def test_only_a_claim_makes_a_job_active() -> None:
    assert {move.operation for move in MOVES if move.after is State.ACTIVE} == {"claim", "awaiting-children"}
    assert all(legal(state, State.ACTIVE) for state in CLAIMABLE)


def test_a_finished_job_moves_only_by_hand() -> None:
    for state in FINISHED:
        assert {move.operation for move in MOVES if move.before is state} == {"retry", "remove"}


def test_every_state_is_reached_and_left() -> None:
    for state in State:
        assert any(move.after is state for move in MOVES), f"nothing leads to {state}"
        assert any(move.before is state for move in MOVES), f"nothing leads out of {state}"


def test_every_move_of_the_table_is_legal_and_so_is_standing_still() -> None:
    assert all(legal(move.before, move.after) for move in MOVES)
    assert all(legal(state, state) for state in (None, *State))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, State.ACTIVE),
        (None, State.COMPLETED),
        (State.WAITING, State.COMPLETED),
        (State.DELAYED, State.COMPLETED),
        (State.COMPLETED, State.ACTIVE),
        (State.COMPLETED, State.FAILED),
        (State.FAILED, State.COMPLETED),
        (State.FAILED, State.DELAYED),
        (State.WAITING, State.DELAYED),
    ],
)
def test_some_moves_are_never_made(before: State | None, after: State | None) -> None:
    assert not legal(before, after)


def test_a_move_says_its_operation() -> None:
    assert Move("promote", State.DELAYED, State.WAITING) in MOVES
