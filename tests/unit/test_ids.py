"""Ids that are drawn, and ids and names that are chosen."""

from __future__ import annotations

import re
import threading
import time
import uuid

import pytest

from toril import ids
from toril.errors import InvalidJob
from toril.ids import RESERVED, TimeOrderedIds, check_job_id, check_queue_name

# ------------------------------------------------------------------ drawn ids


def test_a_drawn_id_is_a_uuid_of_version_7() -> None:
    drawn = uuid.UUID(ids.draw_id())

    assert drawn.version == 7
    assert drawn.variant == uuid.RFC_4122


def test_a_drawn_id_begins_with_the_time() -> None:
    before_ms = time.time_ns() // 1_000_000
    drawn = TimeOrderedIds()()
    after_ms = time.time_ns() // 1_000_000

    assert before_ms <= int(drawn.replace("-", "")[:12], 16) <= after_ms


def test_the_ids_of_one_source_rise_strictly() -> None:
    source = TimeOrderedIds()

    drawn = [source() for _ in range(20_000)]  # more than one millisecond's counter holds

    assert drawn == sorted(set(drawn))


def test_ids_still_rise_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    source = TimeOrderedIds()
    first = source()
    monkeypatch.setattr("toril.ids.time.time_ns", lambda: 1_000_000_000)

    assert source() > first


def test_threads_never_draw_the_same_id() -> None:
    source, drawn, together = TimeOrderedIds(), list[list[str]](), threading.Barrier(8)

    def draw() -> None:
        together.wait()
        drawn.append([source() for _ in range(2_000)])

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(mine == sorted(mine) for mine in drawn)
    assert len({one for mine in drawn for one in mine}) == 16_000


def test_a_drawn_id_is_one_that_could_have_been_chosen() -> None:
    drawn = ids.draw_id()

    assert check_job_id(drawn) == drawn


# ------------------------------------------------------------------ chosen ids


@pytest.mark.parametrize("job_id", ["welcome-1", "a", "order-42", "1.5", "01", "ünïcode", "🐂", "a b", "x" * 512, "-"])
def test_an_id_may_be_chosen_freely(job_id: str) -> None:
    assert check_job_id(job_id) == job_id


@pytest.mark.parametrize(
    ("job_id", "sentence"),
    [
        ("", "the job id is empty: leave `job_id` out to have one drawn"),
        ("42", "the job id '42' is all digits, which BullMQ keeps for its own: put a word before it, as in 'order-42'"),
        ("0", "the job id '0' is all digits, which BullMQ keeps for its own: put a word before it, as in 'order-0'"),
        ("a:b", "the job id 'a:b' contains ':', which separates keys in Redis: use '-', as in 'a-b'"),
        (
            "repeat:x:1",
            "the job id 'repeat:x:1' contains ':', which separates keys in Redis: use '-', as in 'repeat-x-1'",
        ),
        ("a\nb", "the job id 'a\\nb' contains a control character or half a surrogate pair: remove it"),
        ("a\x00", "the job id 'a\\x00' contains a control character or half a surrogate pair: remove it"),
        ("\ud800", "the job id '\\ud800' contains a control character or half a surrogate pair: remove it"),
        (
            "wait",
            "the job id 'wait' is the name of one of the queue's own keys: put a word before it, as in 'job-wait'",
        ),
        ("é" * 257, f"the job id {'é' * 40!r}… is longer than 512 bytes: use a digest of it"),
    ],
)
def test_an_id_that_cannot_be_is_refused_with_one_that_can(job_id: str, sentence: str) -> None:
    with pytest.raises(InvalidJob) as refused:
        check_job_id(job_id)

    assert str(refused.value) == sentence


@pytest.mark.parametrize("job_id", sorted(RESERVED))
def test_an_id_never_overwrites_a_key_of_its_queue(job_id: str) -> None:
    with pytest.raises(InvalidJob, match="one of the queue's own keys"):
        check_job_id(job_id)


@pytest.mark.parametrize("job_id", [42, b"id", object()])
def test_an_id_that_is_not_text_is_refused_like_one_that_cannot_be(job_id: object) -> None:
    with pytest.raises(InvalidJob, match="text"):
        check_job_id(job_id)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------ queue names


@pytest.mark.parametrize("name", ["email", "e-mail_2.high", "ünïcode", "Bild 1", "x" * 512])
def test_a_queue_may_be_named_freely(name: str) -> None:
    assert check_queue_name(name) == name


@pytest.mark.parametrize("name", ["a:b", "{a}", "a*", "a?", "[a]", "a/b", "a\\b", "a\tb", "\udfff", "a\x7f"])
def test_a_queue_name_holds_nothing_that_means_something_in_a_key(name: str) -> None:
    with pytest.raises(InvalidJob, match=re.escape(f"the queue name {name!r} contains one of : {{ }} * ? [ ] / \\")):
        check_queue_name(name)


def test_a_queue_name_is_neither_empty_nor_endless() -> None:
    with pytest.raises(InvalidJob, match=r"^the queue name is empty: give it one$"):
        check_queue_name("")
    with pytest.raises(InvalidJob, match=r"is longer than 512 bytes: shorten it$"):
        check_queue_name("x" * 513)
