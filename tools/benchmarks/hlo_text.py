"""Reads the text of a compiled XLA program (HLO): computations, instructions, shapes.

Only what a count of operations and bytes needs is read. The grammar is that of
`jax.stages.Compiled.as_text()`.
"""

import math
import re
from dataclasses import dataclass, field
from typing import NamedTuple

_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][a-z\d\-]*)\((.*)$")
_COMMENT = re.compile(r"/\*.*?\*/")  # such as the number of every fifth element of a tuple
_BITS = re.compile(r"\d+")


class Array(NamedTuple):
    """Type and dimensions of an array."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """The bytes of all elements; a boolean takes one."""
        bits = _BITS.search(self.dtype)
        return self.size * (int(bits[0]) if bits else 8) // 8


@dataclass(frozen=True)
class Instruction:
    """One instruction."""

    name: str
    opcode: str
    results: tuple[Array, ...]
    """The arrays of its result; several for a tuple."""
    operands: tuple[str, ...]
    """Names of instructions of the same computation."""
    attributes: str
    """All that follows the operands."""
    root: bool

    @property
    def bytes(self) -> int:
        """The bytes of the result."""
        return sum(array.bytes for array in self.results)

    def attribute(self, pattern: str) -> str | None:
        """Returns the first group of a regular expression in the attributes, if it is there."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    @property
    def target(self) -> str:
        """What a custom call calls; empty for other instructions."""
        return self.attribute(r'custom_call_target="([^"]*)"') or ""

    @property
    def op_name(self) -> str:
        """The JAX operation that it comes from, for reports."""
        return self.attribute(r'op_name="([^"]*)"') or ""


Computation = dict[str, Instruction]
"""Instructions by name, in the order of the text."""


@dataclass(frozen=True)
class Program:
    """A compiled program."""

    computations: dict[str, Computation] = field(default_factory=dict)
    entry: str = ""


def parse(text: str) -> Program:
    """Reads a program.

    Args:
      text: The text of one HLO module.
    """
    computations: dict[str, Computation] = {}
    current: Computation = {}
    entry = ""
    for line in text.splitlines():
        if heading := _COMPUTATION.match(line):
            current = computations[heading[2]] = {}
            entry = heading[2] if heading[1] else entry
        elif found := _INSTRUCTION.match(_COMMENT.sub("", line)):
            root, name, shape, opcode, rest = found.groups()
            inner, attributes = _split_at_closing(rest)
            operands = tuple(re.findall(r"%([^\s,()]+)", inner))
            current[name] = Instruction(
                name, opcode, arrays(shape), operands, attributes, bool(root)
            )
    return Program(computations, entry)


def arrays(shape: str) -> tuple[Array, ...]:
    """Returns the arrays of a shape such as `(f32[2,3]{1,0}, pred[])`."""
    return tuple(
        Array(dtype, tuple(int(dim) for dim in dims.split(",") if dim))
        for dtype, dims in _ARRAY.findall(shape)
    )


def _split_at_closing(text: str) -> tuple[str, str]:
    """Splits a text behind the bracket that closes one opened before it."""
    depth = 1
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if not depth:
            return text[:position], text[position + 1 :]
    return text, ""
