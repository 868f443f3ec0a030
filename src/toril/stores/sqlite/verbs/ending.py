"""What follows from the end of a job: its parent hears of it, and keep rules remove what is too old or too many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from toril.options import ChildPolicy, Keep, Options
from toril.states import FINISHED, State
from toril.stores.sqlite.transaction import QueueRow, Transaction
from toril.stores.sqlite.verbs.moves import drop_from_parent, evict, release_parent, release_when_done


class Child(Protocol):
    """A job of which its parent hears."""

    @property
    def queue(self) -> QueueRow: ...

    @property
    def id(self) -> str: ...

    @property
    def parent_row(self) -> int | None: ...

    @property
    def policy(self) -> str | None: ...


class Ended(Child, Protocol):
    """A job that has completed or failed."""

    @property
    def row(self) -> int: ...

    @property
    def options(self) -> Options: ...


def tell_parent(
    tx: Transaction, prefix: str, item: Child, state: str, *, result: str | None = None, reason: str | None = None
) -> None:
    """A child counts as done; the last one releases its parent."""
    assert item.parent_row is not None
    told = tx.run(
        "settle.child",
        parent_row=item.parent_row,
        qid=item.queue.qid,
        id=item.id,
        state=state,
        result=result,
        reason=reason,
    )
    if told:
        release_when_done(tx, prefix, item.parent_row)


def child_failed(tx: Transaction, prefix: str, item: Child, reason: str) -> None:
    """What a child's failure does to its parent is the child's policy."""
    row = item.parent_row
    assert row is not None
    match ChildPolicy(item.policy or ChildPolicy.WAIT):
        case ChildPolicy.WAIT:
            return
        case ChildPolicy.IGNORE:
            tell_parent(tx, prefix, item, "ignored", reason=reason)
        case ChildPolicy.REMOVE:
            drop_from_parent(tx, prefix, row, item.queue.qid, item.id)
        case ChildPolicy.CONTINUE:
            parent = _told_of_failure(tx, item, "ignored", reason)
            if parent is not None and parent[2] == State.WAITING_CHILDREN:
                release_parent(tx, prefix, parent, row)
        case ChildPolicy.FAIL:
            parent = _told_of_failure(tx, item, "failed", reason)
            if parent is not None:
                _fail_parent(tx, prefix, row, parent, f"child {item.queue.name}/{item.id} failed")


def _told_of_failure(tx: Transaction, item: Child, state: str, reason: str) -> tuple[Any, ...] | None:
    """Tell a parent that waited for this child of its failure; a row of `settle.parent`."""
    names = {"parent_row": item.parent_row, "qid": item.queue.qid, "id": item.id}
    if not tx.run("settle.child", **names, state=state, result=None, reason=reason):
        return None
    parent: tuple[Any, ...] | None = tx.one("settle.parent", row=item.parent_row)
    return parent


def _fail_parent(tx: Transaction, prefix: str, row: int, parent: tuple[Any, ...], reason: str) -> None:
    """Let a parent fail: when it is handed out next, or has to settle. One that is delayed does not serve its delay."""
    before = parent[2]
    if before in FINISHED:
        return
    tx.run("settle.defer", row=row, reason=reason)
    if before == State.WAITING_CHILDREN:
        release_parent(tx, prefix, parent, row)
    elif before == State.DELAYED:
        release_parent(tx, prefix, (*parent[:5], 0), row)


def apply_keep_rules(tx: Transaction, prefix: str, queue: QueueRow, state: State, ended: Sequence[Ended]) -> None:
    """Remove at once what is not to be kept, then what is beyond the count or age of those that are."""
    completed = state is State.COMPLETED
    rules: set[Keep] = set()
    at_once: list[int] = []
    for item in ended:
        keep = item.options.keep_completed if completed else item.options.keep_failed
        if keep is not None and keep.count == 0:
            at_once.append(item.row)
        elif keep is not None:
            rules.add(keep)
    evict(tx, prefix, at_once, receipts=True)
    for keep in rules:
        if keep.age_ms is not None:
            before_ms = tx.now_ms - keep.age_ms
            evict(
                tx,
                prefix,
                tx.batch("settle.beyond_age", qid=queue.qid, state=state.value, before=before_ms),
                receipts=True,
            )
        if keep.count is not None and queue.count(state) > keep.count:
            excess = queue.count(state) - keep.count
            evict(
                tx,
                prefix,
                tx.batch("settle.beyond_count", qid=queue.qid, state=state.value, excess=excess),
                receipts=True,
            )
