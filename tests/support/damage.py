"""Hypothesis strategies for damaged files: changed bytes, and changed JSON values."""

import copy
import json
import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

LENGTHS = (0, 1, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
DEEP = "\N{PILCROW SIGN}deep"  # stands for nested lists, too deep for json.dumps
VALUES = (
    *(None, True, False, -1, 0, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**400, 0.5, -1.5),
    *(1e308, -1e308, 5e-324, float("inf"), float("nan")),
    *("", "x", "\0", "\n", "\ud800", "\x1b[2J", "<script>alert(1)</script>", '"><b>', "$style"),
    *("../../../etc/passwd", "/etc/passwd", "C:\\x", "~nobody-of-that-name/x", "x" * 3000),
    *([], {}, [[]], {"": {}}, [None], {"a": 1}, [1e308, -1e308], DEEP),
)
_EDITS = ("flip", "set", "end", "cut", "insert", "copy", "length", "length", "length")
_FORMS = ("<H", ">H", "<I", ">I", "<I", ">I", "<Q", ">Q")
_POSITIONS = st.integers(0, 2**20)


@st.composite
def bytes_of(draw: st.DrawFn, contents: Sequence[bytes]) -> bytes:
    """Draws one of the contents with a few changed bits, bytes, lengths or ranges; rarely noise."""
    content = bytearray(draw(st.sampled_from(contents)))
    if draw(st.integers(0, 50)) == 0:
        return draw(st.binary(max_size=200))
    edits = st.tuples(st.sampled_from(_EDITS), _POSITIONS, _POSITIONS)
    for kind, first, second in draw(st.lists(edits, min_size=1, max_size=5)):
        _edit(content, kind, first, second)
    return bytes(content)


def _edit(content: bytearray, kind: str, first: int, second: int) -> None:
    if not content:
        return
    place, span = first % len(content), second % min(len(content), 64)
    match kind:
        case "flip":
            content[place] ^= 1 << second % 8
        case "set":
            content[place] = second % 256
        case "end":
            del content[place:]
        case "cut":
            del content[place : place + span]
        case "insert":
            content[place:place] = bytes([second % 256]) * span
        case "copy":
            source = second % len(content)
            content[place : place + span] = content[source : source + span]
        case "length":
            form = _FORMS[second % len(_FORMS)]
            size = struct.calcsize(form)
            value = LENGTHS[second // len(_FORMS) % len(LENGTHS)] % 2 ** (8 * size)
            content[place : place + size] = struct.pack(form, value)


@st.composite
def json_of(draw: st.DrawFn, trees: Sequence[Any]) -> str:
    """Draws the JSON text of one of the trees, with a few values replaced or removed."""
    tree = json.loads(json.dumps(draw(st.sampled_from(trees))))
    for _ in range(draw(st.integers(1, 3))):
        entries = list(_entries(tree))
        holder, key = entries[draw(_POSITIONS) % len(entries)] if entries else ([tree], 0)
        action = draw(st.integers(0, 9))
        if action == 0 and isinstance(holder, dict):
            holder.pop(key)
        elif action == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif action == 2 and isinstance(holder, dict):
            holder[str(draw(st.sampled_from(VALUES)))] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    depth = draw(st.sampled_from((150, 400, 900, 100_000)))
    return json.dumps(tree).replace(json.dumps(DEEP), "[" * depth + "]" * depth)


def _entries(tree: Any) -> Any:
    """Yields every list and dictionary with each of its keys."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(pairs):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _entries(value)
