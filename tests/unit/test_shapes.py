"""Data of a job as typed values, and back."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from functools import partial
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Required,
    TypedDict,
    TypeVar,
)
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import ReadOnly, TypeAliasType

from toril.errors import ConfigError, InvalidData, InvalidJob
from toril.parameters import parameters_of
from toril.shapes import reader, to_json, writer
from toril.wirejson import decode, encode

T = TypeVar("T")
Number = TypeVar("Number", bound=int)
UserId = NewType("UserId", str)
Row = TypeAliasType("Row", "list[int]")  # its value is text: only one with a real type is supported
Pair = TypeAliasType("Pair", list[T], type_params=(T,))
SOME_ID = UUID("12345678-1234-5678-1234-567812345678")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Size(Enum):
    SMALL = (1, 2)


class Access(Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclass
class Item:
    price: float
    item_name: str = "thing"
    tags: list[str] = field(default_factory=list[str])
    kind: ClassVar[int] = 1


@dataclass
class Order:
    items: list[Item]
    paid_at: datetime | None = None


@dataclass
class Node:
    child: Node | None = None


@dataclass
class Left:
    child: Left | Right | int
    mark: Literal["left"]


@dataclass
class Right:
    child: Left | Right | int
    mark: Literal["right"]


@dataclass
class Page(Generic[T]):
    rows: list[T]
    next_page: Page[T] | None = None


@dataclass
class Positive:
    n: int

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError("n is negative")


@dataclass
class Counted:
    rows: list[int]
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = len(self.rows)


@dataclass
class Seeded:
    seed: InitVar[int]


@dataclass
class Holder:
    line: socket.socket


class Address(TypedDict):
    street_name: str
    zip_code: NotRequired[Annotated[str, "digits"]]


class Patch(TypedDict, total=False):
    user_id: Required[ReadOnly[int]]
    note: str


class Model(pydantic.BaseModel):
    when: datetime
    sizes: list[int] = []
    user_name: str = pydantic.Field(default="", alias="userName")


class Struct(msgspec.Struct):
    sizes: list[int]
    label: bytes = b""


@dataclass
class Trip:
    user_id: UUID
    home_address: Address
    stops: list[Address] = field(default_factory=list[Address])


class Context:
    pass


class Injected:
    pass


GOOD: list[tuple[Any, Any, Any]] = [
    (Any, {"a": [1]}, {"a": [1]}),
    (object, None, None),
    (None, None, None),
    (bool, True, True),
    (int, 3, 3),
    (int, 3.0, 3),
    (int, 10**400, 10**400),
    (float, 3, 3.0),
    (float, 0.5, 0.5),
    (str, "é", "é"),
    (list, [1, "a"], [1, "a"]),
    (list[int], [1, 2.0], [1, 2]),
    (tuple[int, ...], [1, 2], (1, 2)),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[()], [], ()),
    (tuple, [1], (1,)),
    (set[str], ["a", "a"], {"a"}),
    (frozenset[int], [1], frozenset({1})),
    (dict, {"a": 1}, {"a": 1}),
    (dict[int, str], {"-3": "a"}, {-3: "a"}),
    (dict[Colour, int], {"red": 1, "BLUE": 2}, {Colour.RED: 1, Colour.BLUE: 2}),
    (dict[Level, int], {"1": 5}, {Level.LOW: 5}),
    (dict[UUID, int], {str(SOME_ID): 1}, {SOME_ID: 1}),
    (Mapping[UserId, int], {"a": 1}, {"a": 1}),
    (Sequence[int], [1], [1]),
    (Iterable[int], [1], [1]),
    (int | str, "3", "3"),
    (int | str, 3.0, 3),
    (float | int, 3, 3),
    (int | float, 3.0, 3.0),
    (float | timedelta, 3, 3.0),
    (float | None, 3, 3.0),
    (datetime | str, "2024-05-01T10:00:00Z", datetime(2024, 5, 1, 10, tzinfo=UTC)),
    (str | datetime, "2024-05-01T10:00:00Z", "2024-05-01T10:00:00Z"),
    (datetime | str, "soon", "soon"),
    (Item | Order, {"items": []}, Order([])),
    (list[int] | list[str], ["a"], ["a"]),
    (Literal["a", 1, None], 1.0, 1),
    (Literal[True, 1], True, True),
    (Literal[Colour.RED], "red", Colour.RED),
    (Colour, "red", Colour.RED),
    (Colour, "RED", Colour.RED),
    (Level, 2, Level.HIGH),
    (Size, "SMALL", Size.SMALL),
    (Access, 3, Access.READ | Access.WRITE),
    (date, "2024-05-01", date(2024, 5, 1)),
    (time, "10:30:00Z", time(10, 30, tzinfo=UTC)),
    (timedelta, 1.5, timedelta(seconds=1.5)),
    (Decimal, "1.10", Decimal("1.10")),
    (Decimal, 1.1, Decimal("1.1")),
    (Decimal, 2, Decimal(2)),
    (UUID, str(SOME_ID), SOME_ID),
    (Path, "/a/b", Path("/a/b")),
    (bytes, "aGk=", b"hi"),
    (Item, {"price": 1, "more": 2}, Item(1.0)),
    (Order, {"items": [{"price": 1.5}], "paid_at": None}, Order([Item(1.5)])),
    (Page[int], {"rows": [1], "next_page": {"rows": [2]}}, Page([1], Page([2]))),
    (Counted, {"rows": [1], "total": 9}, Counted([1])),
    (Node, {"child": {"child": {}}}, Node(Node(Node()))),
    (Point, [1], Point(1)),
    (Point, {"x": 1, "y": 2}, Point(1, 2)),
    (Address, {"street_name": "x", "more": 1}, {"street_name": "x"}),
    (Patch, {"user_id": 1}, {"user_id": 1}),
    (Number, 3, 3),
    (T, [3], [3]),
    (Annotated[list[int], []], [3], [3]),
    (Pair[int], [3.0], [3]),
    (Model, {"when": "2024-05-01", "sizes": [1]}, Model(when=datetime(2024, 5, 1), sizes=[1])),
    (Model, {"when": "2024-05-01", "user_name": "a"}, Model(when=datetime(2024, 5, 1), userName="a")),
    (Struct, {"sizes": [1], "label": "aGk="}, Struct([1], b"hi")),
]


@pytest.mark.parametrize(("annotation", "data", "value"), GOOD)
def test_data_that_fits_becomes_a_value_of_its_type(annotation: Any, data: Any, value: Any) -> None:
    found = reader(annotation)(data, "x")

    assert found == value
    assert type(found) is type(value)


BAD: list[tuple[Any, Any, str]] = [
    (None, 0, "x: must be null, not 0"),
    (bool, 1, "x: must be true or false, not 1"),
    (int, True, "x: must be a whole number, not true"),
    (int, 3.5, "x: must be a whole number, not 3.5"),
    (int, math.nan, "x: must be a whole number, not NaN"),
    (int, math.inf, "x: must be a whole number, not Infinity"),
    (int, "3", "x: must be a whole number, not '3'"),
    (float, "abc", "x: must be a number, not 'abc'"),
    (float, math.nan, "x: must be a number, not NaN"),
    (float, True, "x: must be a number, not true"),
    (float, 10**400, "x: must be a number, not an integer of 1,329 bits"),
    (str, 3, "x: must be text, not 3"),
    (str, {}, "x: must be text, not an object"),
    (str | None, 3, "x: must be text, not 3"),
    (list[int], "abc", "x: must be a list, not 'abc'"),
    (list[int], [1, 2, "c"], "x[2]: must be a whole number, not 'c'"),
    (list[list[int]], [[], [0, None]], "x[1][1]: must be a whole number, not null"),
    (tuple[int, str], [1], "x: must have 2 members, not 1"),
    (tuple[int, str], [1, 2], "x[1]: must be text, not 2"),
    (set[Any], [[]], "x: has a member that a set cannot hold: a list or an object"),
    (dict[str, int], {"a": "b"}, "x.a: must be a whole number, not 'b'"),
    (dict[str, int], {"a b": "b"}, """x["a b"]: must be a whole number, not 'b'"""),
    (dict[int, int], {"01": 1}, """x["01"]: must be a whole number, not '01'"""),
    (dict[UUID, int], {str(SOME_ID): 1, SOME_ID.hex: 2}, "x: has two keys that mean the same"),
    (dict[str, int], [], "x: must be an object, not a list"),
    (dict[str, float], {"a": 1.5, "b": math.nan}, "x.b: must be a number, not NaN"),
    (dict[str, int], {"a": 1, "b": True}, "x.b: must be a whole number, not true"),
    (list[str | None], ["a", None, 1], "x[2]: must be text, not 1"),
    (int | str, [], "x: must be a whole number or text, not a list"),
    (Item | str, {"price": "p"}, "x.price: must be a number, not 'p'"),
    (Literal["a", "b"], "c", "x: must be one of 'a', 'b', not 'c'"),
    (Literal[1], True, "x: must be 1, not true"),
    (Colour, "green", "x: must be one of 'red', 'blue', not 'green'"),
    (Colour, ["red"], "x: must be one of 'red', 'blue', not a list"),
    (Level, True, "x: must be one of 1, 2, not true"),
    (Access, 8, "x: must be one of 1, 2, not 8"),
    (datetime, "soon", "x: must be a date and time in ISO 8601, not 'soon'"),
    (datetime, 1714557600, "x: must be a date and time in ISO 8601, not 1714557600"),
    (date, "\ud800", r"x: must be a date in ISO 8601, not '\ud800'"),
    (timedelta, 1e300, "x: must be a number of seconds, not 1e+300"),
    (timedelta, math.nan, "x: must be a number of seconds, not NaN"),
    (Decimal, "NaN", "x: must be a decimal number, not 'NaN'"),
    (Decimal, math.inf, "x: must be a decimal number, not Infinity"),
    (UUID, "1", "x: must be a UUID, not '1'"),
    (bytes, "a*==", "x: must be base64 text, not 'a*=='"),
    (Item, {}, "x.price: is missing"),
    (Item, [], "x: must be an object (Item), not a list"),
    (Order, {"items": [{"price": 1}, {"price": "p"}]}, "x.items[1].price: must be a number, not 'p'"),
    (Positive, {"n": -1}, "x: is not a valid Positive: n is negative"),
    (Point, [], "x: must have 1 to 2 members, not 0"),
    (Point, {"y": 1}, "x.x: is missing"),
    (Address, {}, "x.street_name: is missing"),
    (Address, {"street_name": "a", "zip_code": 1}, "x.zip_code: must be text, not 1"),
    (Patch, {"note": "a"}, "x.user_id: is missing"),
    (Model, {"when": "2024-05-01", "sizes": [1, "a"]}, "x.sizes[1]: Input should be a valid integer, unable to parse string as an integer"),
    (Model, 3, "x: Input should be a valid dictionary or instance of Model"),
    (Struct, {"sizes": [1, "a"]}, "x.sizes[1]: Expected `int`, got `str`"),
    (list[Struct], [{}], "x[0]: Object missing required field `sizes`"),
    (Left | Right, {"child": 1, "mark": "up"}, "x: must be an object (Left) or an object (Right): as an object (Left): mark: must be 'left', not 'up'; as an object (Right): mark: must be 'right', not 'up'"),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "data", "message"), BAD)
def test_data_that_does_not_fit_is_refused_with_its_place(annotation: Any, data: Any, message: str) -> None:
    with pytest.raises(InvalidData) as caught:
        reader(annotation)(data, "x")

    assert str(caught.value) == message


def test_a_place_is_relative_to_nothing_at_the_top() -> None:
    with pytest.raises(InvalidData) as caught:
        reader(list[Item])([{"price": None}], "")

    assert (caught.value.where, caught.value.problem) == ("[0].price", "must be a number, not null")


HOSTILE: list[Any] = [
    None, True, 0, -1, 10**5000, 1e308, math.nan, -math.inf, "", "\x00", "\ud800", "a" * 10_000, [], [[]], {}, {"": {}},
    {"price": []}, {"items": {}}, {"items": [None]}, {"child": []}, {"rows": {}}, {"x": None}, {"n": None}, {"sizes": 3},
]  # fmt: skip


@pytest.mark.parametrize("annotation", [annotation for annotation, _, _ in [*GOOD, *BAD]])
def test_hostile_data_is_read_or_refused_and_nothing_else(annotation: Any) -> None:
    read = reader(annotation, extra="forbid")

    refusals = [error for data in HOSTILE if (error := refusal(read, data)) is not None]

    assert all(error.where.startswith("x") and len(str(error)) < 1000 for error in refusals)


def refusal(read: Callable[[Any, str], Any], data: Any) -> InvalidData | None:
    try:
        read(data, "x")
    except InvalidData as error:
        return error
    return None


def nested(depth: int, bottom: Any, **beside: Any) -> Any:
    for _ in range(depth):
        bottom = {"child": bottom, **beside}
    return bottom


def test_data_nested_too_deeply_is_refused_briefly() -> None:
    with pytest.raises(InvalidData, match=r"^x\.child\.child.*….*\.child: is nested too deeply$") as caught:
        reader(Node)(nested(50_000, None), "x")

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("bottom", [1, "bad"])
def test_ambiguous_nesting_costs_no_more_than_its_size(bottom: Any) -> None:
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    read = reader(Left | Right)
    data = nested(30, bottom, mark="left")
    sys.setprofile(count)
    try:
        read(data, "x")
    except InvalidData:
        assert bottom == "bad"
    finally:
        sys.setprofile(None)

    assert calls < 100_000  # every level tried twice would be 2**30


def test_a_union_forgets_what_it_read_when_it_is_done() -> None:
    read = reader(Left | Right)
    data = {"child": 1, "mark": "left"}
    read(data, "x")
    data["mark"] = "right"

    assert read(data, "x") == Right(1, "right")


def test_forbid_refuses_unknown_members_at_every_depth() -> None:
    with pytest.raises(InvalidData) as caught:
        reader(Order, extra="forbid")({"items": [{"price": 1, "colour": 2}]}, "x")

    assert str(caught.value) == "x.items[0].colour: is unknown: the members are item_name, price, tags"


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (socket.socket, "job data cannot be read as socket: use None, bool"),
        (list[Callable[[], int]], "job data cannot be read as Callable: use None"),
        (tuple[int, *tuple[str, ...]], "job data cannot be read as *tuple[str, ...]: use None"),
        (Holder, "Holder.line: job data cannot be read as socket"),
        (dict[float, int], "float cannot be the key of a dict in job data: use str, int, an Enum or UUID"),
        (Seeded, "Seeded wants 'seed', which is not a field"),
        ("Missing", "job data cannot be read as Missing"),
    ],
)
def test_a_type_that_data_cannot_hold_is_refused_when_it_is_declared(annotation: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reader(annotation)

    assert str(caught.value).startswith(message)


WRITTEN: list[tuple[Any, Any]] = [
    (datetime(2024, 5, 1, 10, tzinfo=UTC), "2024-05-01T10:00:00+00:00"),
    (date(2024, 5, 1), "2024-05-01"),
    (time(10, 30), "10:30:00"),
    (timedelta(minutes=1), 60),
    (timedelta(milliseconds=1500), 1.5),
    (Decimal("1.10"), "1.10"),
    (SOME_ID, str(SOME_ID)),
    (Path("/a"), "/a"),
    (b"hi", "aGk="),
    ({"b", "a"}, ["a", "b"]),
    ((1, (2,)), [1, [2]]),
    (Point(1, 2), [1, 2]),
    (Colour.RED, "red"),
    (Level.HIGH, 2),
    (Size.SMALL, "SMALL"),
    ({1: Colour.RED, Level.HIGH: 0, SOME_ID: 1}, {"1": "red", "2": 0, str(SOME_ID): 1}),
    (Order([Item(1.0)]), {"items": [{"price": 1.0, "item_name": "thing", "tags": []}], "paid_at": None}),
    (Model(when=datetime(2024, 5, 1)), {"when": "2024-05-01T00:00:00", "sizes": [], "user_name": ""}),
    ([Struct([1], b"hi")], [{"sizes": [1], "label": "aGk="}]),
]


@pytest.mark.parametrize(("value", "data"), WRITTEN)
def test_a_value_is_written_as_json_that_json_can_encode(value: Any, data: Any) -> None:
    assert to_json(value) == data
    assert json.loads(encode(to_json(value))) == data


def test_plain_json_is_left_as_it_is() -> None:
    data = {"a": [1, {"b": None}], "c": "d"}

    assert to_json(data) is data


AS_IT_IS: list[tuple[Any, Any]] = [
    (dict[str, Any], {"a": 1, "b": [{}]}),
    (dict[str, int | None], {"a": 1, "b": None}),
    (dict[str, bool | int | str], {"a": 1, "b": "c", "d": True}),
    (list[str], ["a", "b"]),
]


@pytest.mark.parametrize(("annotation", "data"), AS_IT_IS)
def test_data_that_needs_no_conversion_is_read_as_it_is(annotation: Any, data: Any) -> None:
    assert reader(annotation)(data, "x") is data


def test_reading_does_not_change_the_data() -> None:
    data: dict[str, list[float]] = {"a": [1, 2.0], "b": [3]}

    assert reader(dict[str, list[int]])(data, "x") == {"a": [1, 2], "b": [3]}
    assert [type(n) for n in data["a"]] == [int, float]


def test_types_of_costly_modules_are_known_without_importing_them() -> None:
    program = "import sys, toril.shapes; print({'uuid', 'decimal', 'pydantic', 'msgspec'} & set(sys.modules))"

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "set()"


def test_writing_does_not_change_the_value() -> None:
    data = {"a": [1, {"b": Colour.RED}]}

    assert to_json(data) == {"a": [1, {"b": "red"}]}
    assert data == {"a": [1, {"b": Colour.RED}]}


def endless() -> list[Any]:
    rows: list[Any] = []
    rows.append(rows)
    return rows


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "a object cannot be written as JSON: pass what the job needs of it, as plain values or a dataclass"),
        ({"items": [1, {"line": object}]}, "items[1].line: a type cannot be written as JSON"),
        (Order([Item(1.0, tags=[socket])]), "items[0].tags[0]: a module cannot be written as JSON"),  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
        ({"a": {1.5: 2}}, "a: has the key 1.5: keys are text, whole numbers, enum members or UUIDs"),
        ({1: 2, "1": 3}, '["1"]: is the JSON form of two keys'),
        ([Decimal("NaN")], "[0]: is Decimal NaN, which is no number"),
        (endless(), "the value is nested too deeply, or contains itself"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place_and_type(value: Any, message: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        to_json(value)

    assert str(caught.value).startswith(message)


@dataclass
class Mixed:
    n: int
    ratio: float
    text: str
    flag: bool | None
    at: datetime
    day: date
    wait: timedelta
    amount: Decimal
    owner: UUID
    blob: bytes
    colour: Colour
    words: frozenset[str]
    scores: dict[int, float]
    either: int | str | Item | None
    pair: tuple[int, str]
    points: list[Point]
    inner: Mixed | None = None


st.register_type_strategy(int, st.integers(-(2**53), 2**53))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(Decimal, st.decimals(allow_nan=False, allow_infinity=False))
st.register_type_strategy(str, st.text(st.characters(exclude_categories=["Cs"])))
st.register_type_strategy(timedelta, st.timedeltas(timedelta(days=-90_000), timedelta(days=90_000)))


@given(st.from_type(Mixed), st.sampled_from(["snake", "camel"]))
def test_a_value_survives_the_journey_through_json(value: Mixed, keys: Literal["snake", "camel"]) -> None:
    text = encode(writer(Mixed, keys=keys)(value))

    assert reader(Mixed, extra="forbid", keys=keys)(decode(text), "") == value


# Parameters of handlers


async def welcome(user_id: str, address: str, retries: int = 3) -> dict[str, bool]:
    return {}


def call(function: Callable[..., Any], data: Any, **options: Any) -> Any:
    args, kwargs = parameters_of(function, **options).read(data)
    return args, kwargs


def test_parameters_are_the_members_of_the_data() -> None:
    parameters = parameters_of(welcome)

    assert parameters.read({"user_id": "u1", "address": "a"}) == ((), {"user_id": "u1", "address": "a"})
    assert parameters.required == ("user_id", "address")
    assert parameters.returns == dict[str, bool]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"address": "a"}, "user_id: is missing"),
        ({"user_id": 1, "address": "a"}, "user_id: must be text, not 1"),
        ({"user_id": "u", "address": "a", "retries": "x"}, "retries: must be a whole number, not 'x'"),
        (None, "user_id: is missing"),
        ([], "must be an object with the members user_id, address, retries, not a list"),
    ],
)
def test_data_that_does_not_fit_the_parameters_names_the_member(data: Any, message: str) -> None:
    with pytest.raises(InvalidData) as caught:
        parameters_of(welcome).read(data)

    assert str(caught.value) == message


def test_unknown_members_are_dropped_and_reported() -> None:
    parameters = parameters_of(welcome)
    data = {"user_id": "u", "address": "a", "z": 1, "y": 2}

    assert parameters.read(data) == ((), {"user_id": "u", "address": "a"})
    assert parameters.unknown(data) == ("z", "y")


def test_forbid_refuses_unknown_members() -> None:
    with pytest.raises(InvalidData) as caught:
        call(welcome, {"user_id": "u", "address": "a", "z": 1}, extra="forbid")

    assert str(caught.value) == "z: is unknown: the members are address, retries, user_id"


class Handlers:
    def run(self, ctx: Context, user_id: int, *, db: Any = Injected()) -> None: ...  # noqa: B008


def test_self_context_and_what_is_injected_do_not_come_from_the_data() -> None:
    parameters = parameters_of(Handlers().run, context_type=Context, injected_type=Injected)

    assert parameters.takes_context
    assert list(parameters.injected) == ["db"]
    assert parameters.read({"user_id": 1, "db": 2, "ctx": 3}) == ((), {"user_id": 1})
    assert parameters.unknown({"user_id": 1, "db": 2, "ctx": 3}) == ("db", "ctx")


def test_one_positional_only_parameter_is_the_whole_payload() -> None:
    def handle(ctx: Context, order: Order, /, *, db: Any = Injected()) -> None: ...  # noqa: B008

    parameters = parameters_of(handle, context_type=Context, injected_type=Injected)

    assert parameters.read({"items": [], "z": 1}) == ((Order([]),), {})
    assert parameters.unknown({"items": [], "z": 1}) == ("z",)
    assert parameters.write((Order([]),), {}) == {"items": [], "paid_at": None}


def test_several_positional_only_parameters_are_members_given_by_position() -> None:
    def handle(a: int, b: int = 2, /, c: int = 3) -> None: ...

    assert call(handle, {"a": 1, "c": 5}) == ((1, 2), {"c": 5})


def test_keyword_parameters_take_unknown_members() -> None:
    def handle(a: int, **more: int) -> None: ...

    assert call(handle, {"a": 1, "b": 2}, extra="forbid") == ((), {"a": 1, "b": 2})
    with pytest.raises(InvalidData, match=r"^b: must be a whole number, not 'x'$"):
        call(handle, {"a": 1, "b": "x"})


def test_data_cannot_put_itself_in_the_place_of_the_context() -> None:
    class Greedy:
        def run(self, ctx: Context, *, db: Any = Injected(), **more: Any) -> None: ...  # noqa: B008

    for name in ("self", "ctx", "db"):
        with pytest.raises(InvalidData, match=rf"^{name}: cannot be a member: run\(\) gets '{name}' from elsewhere$"):
            call(Greedy().run, {name: 1}, context_type=Context, injected_type=Injected)


def test_a_partial_and_a_callable_object_have_parameters_too() -> None:
    class Handler:
        def __call__(self, n: int) -> str:
            return ""

    def handle(a: int, b: int) -> None: ...

    assert call(partial(handle, 1), {"b": 2.0}) == ((), {"b": 2})
    assert call(Handler(), {"n": 2.0}) == ((), {"n": 2})


def test_an_annotation_for_type_checkers_alone_matters_only_in_data() -> None:
    def fine(user_id: int, db: Missing = Injected()) -> Missing: ...  # type: ignore[name-defined] # noqa: B008, F821 # pyright: ignore

    def wrong(user_id: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821 # pyright: ignore

    assert call(fine, {"user_id": 1.0}, injected_type=Injected) == ((), {"user_id": 1})  # pyright: ignore
    with pytest.raises(ConfigError) as caught:
        parameters_of(wrong)  # pyright: ignore
    assert str(caught.value) == (
        "parameter 'user_id' of wrong() has an annotation that is unknown at run time: define it at module level, outside TYPE_CHECKING"
    )


def test_a_context_imported_for_type_checkers_alone_is_known_by_its_name() -> None:
    def handle(ctx: toril.Context, n: int) -> None: ...  # type: ignore[name-defined] # noqa: F821 # pyright: ignore

    parameters = parameters_of(handle, context_type=Context)  # pyright: ignore

    assert parameters.takes_context
    assert parameters.read({"n": 1}) == ((), {"n": 1})


def star(*items: int) -> None: ...
def late(n: int, ctx: Context) -> None: ...
def mixed(order: Order, /, n: int) -> None: ...
def unsupported(line: socket.socket) -> None: ...
def twice(user_id: int, userId: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (star, "star() takes *items, and the members of job data have names: declare each parameter"),
        (late, "late() takes its context as 'ctx': make it the first parameter"),
        (mixed, "mixed() has a positional-only parameter, which is the whole payload, and 'n' beside it"),
        (unsupported, "parameter 'line' of unsupported(): job data cannot be read as socket: use None, bool"),
        (twice, "two members of an object with the members userId, userId have the same name on the wire"),
    ],
)
def test_a_handler_that_cannot_work_is_refused_when_it_is_declared(function: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parameters_of(function, context_type=Context, keys="camel")

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("args", "kwargs", "data"),
    [
        (("u", "a"), {}, {"user_id": "u", "address": "a"}),
        (("u",), {"address": "a", "retries": 5}, {"user_id": "u", "address": "a", "retries": 5}),
    ],
)
def test_a_call_is_written_as_data(args: Any, kwargs: Any, data: Any) -> None:
    assert parameters_of(welcome).write(args, kwargs) == data


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {"address": "a"}, "welcome() is missing a required argument: 'user_id'"),
        ((), {}, "welcome() is missing 2 required arguments: 'user_id', 'address'"),
        (("u", "a"), {"mail": 1}, "welcome() got an unexpected keyword argument 'mail'"),
        (("u", "a"), {"user_id": "v"}, "welcome() got multiple values for argument 'user_id'"),
        ((1, 2, 3, 4), {}, "welcome() takes 3 positional arguments but 4 were given"),
        (("u", [object()]), {}, "address[0]: a object cannot be written as JSON"),
    ],
)
def test_a_call_that_python_would_refuse_is_no_job(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(InvalidData) as caught:
        parameters_of(welcome).write(args, kwargs)

    assert str(caught.value).startswith(message)


def move(
    user_id: UUID, old_home: Address, next_trips: dict[str, Trip | None], why: Trip | Address, **more_of: int
) -> None: ...


def test_camel_keys_translate_both_ways_at_every_depth() -> None:
    parameters = parameters_of(move, keys="camel")
    home: Address = {"street_name": "Elm", "zip_code": "1"}
    trip = Trip(SOME_ID, home, [home])
    kwargs = {"user_id": SOME_ID, "old_home": home, "next_trips": {"a_b": trip, "c": None}, "why": home, "bag_count": 2}

    data = parameters.write((), kwargs)

    wire_home = {"streetName": "Elm", "zipCode": "1"}
    assert data == {
        "userId": str(SOME_ID),
        "oldHome": wire_home,
        "nextTrips": {"a_b": {"userId": str(SOME_ID), "homeAddress": wire_home, "stops": [wire_home]}, "c": None},
        "why": wire_home,
        "bagCount": 2,
    }
    assert parameters.read(decode(encode(data))) == ((), kwargs)
    with pytest.raises(InvalidData, match=r"^oldHome\.streetName: is missing$"):
        parameters.read({**data, "oldHome": {}})


def test_camel_keys_do_not_let_two_spellings_be_one_argument() -> None:
    with pytest.raises(InvalidData, match=r"^user_id: cannot be a member: move\(\) gets 'user_id' from elsewhere$"):
        parameters_of(move, keys="camel").read(
            {
                "userId": str(SOME_ID),
                "oldHome": {"streetName": ""},
                "nextTrips": {},
                "why": {"streetName": ""},
                "user_id": 1,
            }
        )
