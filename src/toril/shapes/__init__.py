"""JSON values into typed Python values and back.

`reader` and `writer` compile a type, once; `to_json` writes any value as what it is.
"""

from toril.shapes.annotations import hints_of
from toril.shapes.compiler import SUPPORTED, reader, shape, writer
from toril.shapes.messages import place, within
from toril.shapes.records import members_reader
from toril.shapes.terms import Extra, Keys, Member, Reader, Shape, Writer, camel, snake, wire_name
from toril.shapes.writing import to_json

__all__ = [
    "SUPPORTED",
    "Extra",
    "Keys",
    "Member",
    "Reader",
    "Shape",
    "Writer",
    "camel",
    "hints_of",
    "members_reader",
    "place",
    "reader",
    "shape",
    "snake",
    "to_json",
    "wire_name",
    "within",
    "writer",
]
