"""What becomes of a job: decided from what its handler did, and from nothing else."""

from __future__ import annotations

import concurrent.futures
import os
import traceback
from types import TracebackType

from toril.errors import InvalidData, InvalidJob, UnknownJob, Unrecoverable
from toril.model import Claim, Completed, Failed, Outcome, Retried
from toril.shapes import to_json
from toril.wirejson import encode
from toril.wishes import Wish

MAX_REASON = 4_000
MAX_STACK = 16_000

_OWN_FOLDERS = (os.path.dirname(__file__), os.path.dirname(concurrent.futures.__file__))


def decide_value(value: object, now_ms: int) -> Outcome:
    """Say what becomes of a job whose handler has returned."""
    if value is None:
        return Completed()
    if isinstance(value, Wish):
        return value.as_outcome(now_ms)
    try:
        return Completed(encode(to_json(value), "the result"))
    except InvalidJob as error:  # the work is done: doing it again would not help
        return Failed(f"the handler's result cannot be stored: {error}")


def decide_error(
    claim: Claim, error: BaseException, now_ms: int, *, after_ms: int | None, retry: bool = True
) -> Outcome:
    """Say what becomes of a job whose handler has raised.

    `after_ms` is the backoff's wait, None when it gives up; `retry` says whether errors of this type are tried again.
    """
    if isinstance(error, Wish):
        return error.as_outcome(now_ms)
    reason, stack = describe(error), stack_of(error)
    if (
        isinstance(error, Unrecoverable | InvalidData)
        or not retry
        or after_ms is None
        or claim.attempt >= claim.options.attempts
    ):
        return Failed(reason, stack)
    return Retried(after_ms, reason, stack)


def describe(error: BaseException) -> str:
    """The message of an error; its type where it has none."""
    try:
        text = str(error)
    except Exception as broken:  # a __str__ of the user's that fails must not hide the error
        text = f"<its message cannot be printed: {type(broken).__name__}>"
    if isinstance(error, KeyError):  # whose message is the key alone
        text = f"KeyError: {text}"
    return clean(text[:MAX_REASON]) or type(error).__name__


def stack_of(error: BaseException) -> str:
    """The traceback of an error, as Python prints it, from the handler on; the middle is left out of a long one.

    What Toril itself says of a job needs none.
    """
    if isinstance(error, InvalidData | UnknownJob):
        return ""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and _is_ours(trace):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    if len(text) <= MAX_STACK:
        return clean(text)
    half = MAX_STACK // 2
    return clean(f"{text[:half]}\n… {len(text) - MAX_STACK:,} characters left out …\n{text[-half:]}")


def _is_ours(trace: TracebackType) -> bool:
    """Whether a frame is the worker's, or a thread pool's."""
    return trace.tb_frame.f_code.co_filename.startswith(_OWN_FOLDERS)


def clean(text: str) -> str:
    """Text that every store and reader takes: no half surrogates, no NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
