"""What becomes of a job, as a table."""

from __future__ import annotations

import math
from typing import Any

import pytest

from toril.errors import InvalidData, UnknownJob, Unrecoverable
from toril.model import AwaitingChildren, Claim, Completed, Delayed, Failed, JobRef, Outcome, Retried, Throttled
from toril.options import Options
from toril.wishes import AwaitChildren, Delay, Throttle
from toril.worker.decide import MAX_REASON, MAX_STACK, decide_error, decide_value, describe, stack_of

NOW_MS = 1_700_000_000_000


def claim_of(*, attempt: int = 1, attempts: int = 3) -> Claim:
    return Claim(
        ref=JobRef("email", "1"),
        name="welcome",
        data="{}",
        options=Options(attempts=attempts),
        token="t",
        attempt=attempt,
        started=attempt,
        stalled=0,
        priority=0,
        created_at_ms=NOW_MS,
        claimed_at_ms=NOW_MS,
        worker="w",
    )


def raised(error: BaseException) -> BaseException:
    """The error with a traceback, as a handler leaves it."""
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (None, Completed("null")),
        (0, Completed("0")),
        ("", Completed('""')),
        ({"sent": True}, Completed('{"sent":true}')),
        (Delay(5), Delayed(NOW_MS + 5_000)),
        (Throttle(5), Throttled(5_000)),
        (AwaitChildren(), AwaitingChildren()),
    ],
)
def test_a_value_completes_the_job_and_a_wish_is_granted(value: object, outcome: Outcome) -> None:
    assert decide_value(value, NOW_MS) == outcome


@pytest.mark.parametrize("value", [object(), math.nan, 2**60, "\ud800", {"a": {"b": object()}}])
def test_a_result_that_cannot_be_stored_fails_the_job_which_is_not_tried_again(value: object) -> None:
    outcome = decide_value(value, NOW_MS)

    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("the handler's result cannot be stored: ")


@pytest.mark.parametrize(
    ("attempt", "attempts", "error", "after_ms", "retry", "kind"),
    [
        (1, 3, ValueError("no"), 1_000, True, Retried),
        (2, 3, ValueError("no"), 0, True, Retried),
        (3, 3, ValueError("no"), 1_000, True, Failed),  # the last attempt
        (4, 3, ValueError("no"), 1_000, True, Failed),  # its attempts were lowered meanwhile
        (1, 1, ValueError("no"), 0, True, Failed),
        (1, 3, ValueError("no"), None, True, Failed),  # the backoff gives up
        (1, 3, ValueError("no"), 1_000, False, Failed),  # not an error that is tried again
        (1, 3, Unrecoverable("no"), 1_000, True, Failed),
        (1, 3, InvalidData("address", "no"), 1_000, True, Failed),
        (1, 3, UnknownJob("welcome"), 1_000, True, Retried),  # another worker may know it
        (1, 3, SystemExit(1), 1_000, True, Retried),
        (1, 3, KeyboardInterrupt(), 1_000, True, Retried),
        (3, 3, Delay(1), None, False, Delayed),  # a wish costs no attempt, so the last one may be wished away
        (3, 3, Throttle(1), None, False, Throttled),
        (3, 3, AwaitChildren(), None, False, AwaitingChildren),
    ],
)
def test_what_a_handler_raises_decides(
    attempt: int, attempts: int, error: BaseException, after_ms: int | None, retry: bool, kind: type[Any]
) -> None:
    outcome = decide_error(
        claim_of(attempt=attempt, attempts=attempts), raised(error), NOW_MS, after_ms=after_ms, retry=retry
    )

    assert type(outcome) is kind
    if isinstance(outcome, Retried):
        assert outcome.after_ms == after_ms
    if isinstance(outcome, Retried | Failed):
        assert outcome.reason == describe(error)
        said_by_us = isinstance(error, InvalidData | UnknownJob)  # which need no stack
        assert (type(error).__name__ in outcome.stack) is not said_by_us
        assert ("in raised" in outcome.stack) is not said_by_us


def test_the_reason_is_the_message_and_the_type_where_there_is_none() -> None:
    assert describe(ValueError("no such user")) == "no such user"
    assert describe(ValueError()) == "ValueError"


def test_an_error_that_cannot_be_printed_has_a_reason_all_the_same() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert describe(Broken()) == "<its message cannot be printed: RuntimeError>"
    assert "Broken" in stack_of(raised(Broken()))


def test_a_reason_is_text_that_every_store_takes() -> None:
    assert describe(ValueError("a\x00b\ud800c")) == "a\\x00b\\ud800c"
    assert "\x00" not in stack_of(raised(ValueError("a\x00b")))


def test_reasons_and_stacks_are_bounded() -> None:
    def deeper(n: int) -> None:
        if n:
            deeper(n - 1)
        raise ValueError("x" * 100_000)

    with pytest.raises(ValueError) as caught:  # noqa: PT011
        deeper(100)

    assert len(describe(caught.value)) == MAX_REASON
    stack = stack_of(caught.value)
    assert len(stack) <= MAX_STACK + 100
    assert "characters left out" in stack
    assert stack.startswith("Traceback")


def test_the_end_of_a_long_stack_is_kept() -> None:
    error = raised(ValueError("\n".join(["line"] * 100_000 + ["the last line"])))

    assert stack_of(error).rstrip().endswith("the last line")
