"""Counts what a compiled GPU program launches: bytes, floating-point operations, layout changes.

A launch is a kernel or a call of a library. The floor of a program is the sum over its launches of
the time that its bytes or its operations take at the device's full rate, whichever is longer.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from hlo_text import Computation, Instruction, Program

MEGABYTE = 1e6
_NO_LAUNCH = {
    "after-all",
    "all-gather-done",
    "all-reduce-done",
    "async-done",
    "bitcast",
    "constant",
    "copy-done",
    "get-tuple-element",
    "parameter",
    "partition-id",
    "tuple",
}
_SLICES = {"slice", "dynamic-slice", "gather"}
_MOVES = {"broadcast", "bitcast", "concatenate", "constant", "copy", "iota", "pad", "parameter"} | {
    "get-tuple-element", "reshape", "reverse", "slice", "transpose", "tuple", "dynamic-slice",
}  # fmt: skip
_HOST = {"infeed", "outfeed", "send", "recv"}
_MOST_POSITIONS = 7  # rows and columns of the largest kernels
_FEWEST_SLICES = 8  # of a depthwise convolution: 3x3 without the middle one, which is the map


class Device(NamedTuple):
    """The rates of a GPU, from its data sheet."""

    bandwidth: float
    """Bytes per second."""
    matrix: dict[str, float]
    """Operations per second of convolutions and products, without sparsity, by type."""
    vector: float
    """Operations per second of everything else, in float32."""


# An H100 SXM; float32 products are rounded to TF32.
H100 = Device(3.352e12, {"f32": 494e12, "bf16": 989e12, "f16": 989e12}, 67e12)


class Launch(NamedTuple):
    """One launch, or one in a loop that is repeated."""

    name: str
    kind: str
    """`fusion`, `copy`, the name of a library's function, ..."""
    bytes: int
    """Bytes read and written, in each repetition."""
    flops: int
    """Floating-point operations, in each repetition."""
    seconds: float
    """The floor, in each repetition."""
    repetitions: int
    op_name: str
    layout_changes: tuple[int, ...]
    """Bytes of every map that it transposes or copies."""
    groups: int = 0
    """Groups of a convolution; 0 for anything else."""
    host: bool = False
    """Whether it calls the host."""
    sums_slices: bool = False
    """Whether it is a sum over what it computes from shifted slices: sixty times its floor."""


def launches(program: Program, device: Device = H100) -> list[Launch]:
    """Returns the launches of a program in their order.

    Args:
      program: A program compiled for a GPU.
      device: The GPU.
    """
    found = []
    for computation, instruction, repetitions in walk(program, program.entry):
        found.append(_launch(program, computation, instruction, repetitions, device))
    return found


def walk(
    program: Program, name: str, repetitions: int = 1
) -> Iterator[tuple[Computation, Instruction, int]]:
    """Yields what is executed, its computation, and how often; a loop multiplies what is in it.

    Args:
      program: A compiled program.
      name: The computation to start from, such as `program.entry`.
      repetitions: How often that one is executed.
    """
    computation = program.computations[name]
    for instruction in computation.values():
        if instruction.opcode in _NO_LAUNCH:
            continue
        if instruction.opcode == "while":
            times = int(instruction.attribute(r'known_trip_count":\{"n":"(\d+)"') or 1)
            body = instruction.attribute(r"body=%([^\s,]+)") or ""
            yield from walk(program, body, repetitions * times)
        elif instruction.opcode in ("call", "conditional"):
            called = r"(?:calls|to_apply|branch_computations|(?:true|false)_computation)=\{?([^}]*)"
            for names in re.findall(called, instruction.attributes):
                for callee in re.findall(r"%([\w.\-]+)", names.split("metadata")[0]):
                    yield from walk(program, callee, repetitions)
        else:
            yield computation, instruction, repetitions


def _launch(
    program: Program,
    computation: Computation,
    instruction: Instruction,
    repetitions: int,
    device: Device,
) -> Launch:
    written, groups = instruction.bytes, 0
    inside: Computation = {instruction.name: instruction}
    around = computation
    if instruction.opcode == "fusion":
        inside = around = program.computations[instruction.attribute(r"calls=%([^\s,]+)") or ""]
        parameters = [each for each in inside.values() if each.opcode == "parameter"]
        read = sum(_bytes_read(inside, parameter) for parameter in parameters)
        root = next(each for each in inside.values() if each.root)
        if root.opcode == "dynamic-update-slice":  # in place
            written = inside[root.operands[1]].bytes
        kind = "fusion"
    else:
        read = sum(computation[name].bytes for name in instruction.operands if name in computation)
        kind = instruction.target or instruction.opcode
    rate, flops = device.vector, 0
    if "$conv" in instruction.target:
        flops, dtype = _convolution_flops(computation, instruction)
        groups = int(instruction.attribute(r"feature_group_count=(\d+)") or 1)
        if groups == 1:
            rate = device.matrix[dtype]
    else:
        for each in inside.values():
            flops += _flops(around, each)
        products = [each for each in inside.values() if each.opcode == "dot"]
        if products or "gemm" in instruction.target:
            operands = products[0].operands if products else instruction.operands
            rate = device.matrix.get(around[operands[0]].results[0].dtype, device.vector)
    moved = read + written
    return Launch(
        instruction.name,
        kind,
        moved,
        flops,
        max(moved / device.bandwidth, flops / rate),
        repetitions,
        instruction.op_name,
        tuple(each.bytes for each in inside.values() if _changes_layout(each)),
        groups,
        _calls_host(instruction),
        _sums_slices(inside),
    )


def _bytes_read(inside: Computation, parameter: Instruction) -> int:
    """Returns how much of a parameter a fusion reads."""
    users = [each for each in inside.values() if parameter.name in each.operands]
    first = all(each.operands[0] == parameter.name for each in users)
    if users and first and all(each.opcode in _SLICES for each in users):
        return min(parameter.bytes, sum(each.bytes for each in users))
    if users and first and all(each.opcode == "dynamic-update-slice" for each in users):
        return 0  # written in place
    return parameter.bytes


def _convolution_flops(computation: Computation, call: Instruction) -> tuple[int, str]:
    """Returns the operations of a call of cuDNN, and the type of the forward output."""
    first, second = (computation[name].results[0] for name in call.operands[:2])
    result = call.results[0]
    if "BackwardFilter" in call.target:
        kernel, output = result, second
    elif "BackwardInput" in call.target:
        kernel, output = second, first
    else:
        kernel, output = second, result
    labels = call.attribute(r"dim_labels=\S+?->([^,\s]+)") or ""
    places = math.prod(n for n, label in zip(output.dims, labels, strict=True) if label != "f")
    return 2 * kernel.size * places, output.dtype


def _flops(inside: Computation, instruction: Instruction) -> int:
    if instruction.opcode in _MOVES or not instruction.results:
        return 0
    if instruction.opcode in ("reduce", "reduce-window"):
        half = len(instruction.operands) // 2  # arrays, then initial values
        return sum(inside[name].results[0].size for name in instruction.operands[:half])
    size = instruction.results[0].size
    if instruction.opcode == "dot":
        dims = instruction.attribute(r"lhs_contracting_dims=\{([\d,]+)\}") or ""
        factor = inside[instruction.operands[0]].results[0].dims
        return 2 * size * math.prod(factor[int(dim)] for dim in dims.split(",") if dim)
    return size if instruction.opcode != "fusion" else 0


def _changes_layout(instruction: Instruction) -> bool:
    """Returns whether an instruction transposes or copies a map; kernels do not count."""
    if instruction.opcode not in ("transpose", "copy", "copy-start"):
        return False
    return is_map(instruction.results[0].dims)


def is_map(dims: tuple[int, ...]) -> bool:
    """Returns whether an array can be a map, rather than a kernel or a vector.

    A kernel has two equal small dimensions, or, of 1x1 positions, none but its channels.

    Args:
      dims: Dimensions of the array in any order.
    """
    dims = tuple(dim for dim in dims if dim > 1)
    small = [dim for dim in dims if dim <= _MOST_POSITIONS]
    return len(dims) > 2 and len(set(small)) == len(small)


def _sums_slices(inside: Computation) -> bool:
    """Returns whether a kernel sums a depthwise convolution's output while it computes it."""
    padded = {name for name, each in inside.items() if each.opcode == "pad"}
    slices = [each for each in inside.values() if each.opcode == "slice"]
    shifted = sum(each.operands[0] in padded for each in slices)
    return shifted >= _FEWEST_SLICES and any(each.opcode == "reduce" for each in inside.values())


def _calls_host(instruction: Instruction) -> bool:
    return instruction.opcode.removesuffix("-start") in _HOST or "callback" in instruction.target
