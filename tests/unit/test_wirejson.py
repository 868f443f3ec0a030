"""JSON that both sides read alike."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.errors import InvalidJob, PayloadTooLarge
from toril.wirejson import MAX_INTEGER, decode, encode

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    SCALARS | TEXT, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5), max_leaves=20
)


@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert decode(encode(value)) == value


@given(VALUES)
def test_what_is_written_is_json_in_utf_8(value: Any) -> None:
    assert json.loads(encode(value).encode()) == value


def test_json_has_no_blanks_and_keeps_letters_as_they_are() -> None:
    assert encode({"a": [1, "ä🐂"], "b": None}) == '{"a":[1,"ä🐂"],"b":null}'


def test_a_tuple_is_a_list() -> None:
    assert encode((1, (2,))) == "[1,[2]]"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_refused_wherever_they_are(number: float) -> None:
    for value, where in [(number, "data"), ({"a": number}, "data.a"), ({"a": [1, number]}, "data.a[1]")]:
        with pytest.raises(InvalidJob) as refused:
            encode(value)
        assert str(refused.value) == f"{where} is {number}, which JSON has no number for: use null or text"


@pytest.mark.parametrize("number", [MAX_INTEGER, -MAX_INTEGER])
def test_integers_up_to_2_53_pass(number: int) -> None:
    assert decode(encode({"n": number})) == {"n": number}


@pytest.mark.parametrize("number", [MAX_INTEGER + 1, -MAX_INTEGER - 1, 10**400])
def test_integers_that_javascript_would_round_are_refused(number: int) -> None:
    with pytest.raises(InvalidJob) as refused:
        encode({"id": number})

    assert str(refused.value) == (
        f"data.id is {number}: JavaScript reads integers only up to 2^53 exactly; pass it as text"
    )


@pytest.mark.parametrize("key", [1, None, True, 1.5, ("a",)])
def test_keys_are_text(key: Any) -> None:
    with pytest.raises(InvalidJob) as refused:
        encode({"a": [{key: 1}]})

    assert str(refused.value) == f"data.a[0] has the key {key!r}: keys of JSON objects are text"


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, {"a": object()}, [b"x"]])
def test_what_json_has_no_form_for_is_refused(value: Any) -> None:
    with pytest.raises(InvalidJob, match=r"^data is not JSON: "):
        encode(value)


@pytest.mark.parametrize("depth", [5_000, 200_000])
def test_what_is_too_deep_is_refused(depth: int) -> None:
    deep: Any = []
    for _ in range(depth):
        deep = [deep]

    with pytest.raises(InvalidJob, match=r"^data is nested too deeply, or contains itself$"):
        encode(deep)


def test_what_contains_itself_is_refused() -> None:
    ring: dict[str, Any] = {}
    ring["ring"] = ring

    with pytest.raises(InvalidJob, match=r"^data is nested too deeply, or contains itself$"):
        encode(ring)


def test_what_passes_when_it_is_written_passes_when_it_is_read() -> None:
    deep: Any = 1
    for depth in range(1, 400):
        deep = {"a": deep}
        if depth % 50 == 0:
            assert decode(encode(deep)) == deep


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_a_surrogate_pair_is_refused_in_values_and_keys(text: str) -> None:
    for value in (text, {"a": text}, {text: 1}, [[text]]):
        with pytest.raises(InvalidJob, match=r"^data is not JSON: .*surrogate"):
            encode(value, limit=100)


def test_half_a_surrogate_pair_is_refused_without_a_limit_too() -> None:
    with pytest.raises(InvalidJob, match="surrogate"):
        encode("\ud800")


def test_the_limit_counts_bytes_of_utf_8() -> None:
    assert encode("éé", limit=6) == '"éé"'
    with pytest.raises(PayloadTooLarge) as refused:
        encode("éé", limit=5)

    assert (refused.value.size, refused.value.limit) == (6, 5)
    assert str(refused.value) == (
        "the job's data is 6 bytes of JSON, more than the limit of 5: "
        "store it elsewhere and pass a reference, or raise `size_limit`"
    )


def test_a_message_names_what_was_to_be_written() -> None:
    with pytest.raises(InvalidJob, match=r"^progress is nan"):
        encode(math.nan, "progress")


@pytest.mark.parametrize("text", ["", "{", "undefined", "{'a': 1}"])
def test_what_is_not_json_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1 column"):
        decode(text)


@pytest.mark.parametrize("kind", [type("Sub", (int,), {}), type("Sub", (float,), {})])
def test_numbers_of_a_type_derived_from_a_number_are_checked_like_numbers(kind: Any) -> None:
    wrong = kind(MAX_INTEGER + 1) if issubclass(kind, int) else kind(math.inf)

    with pytest.raises(InvalidJob):
        encode({"a": wrong})
