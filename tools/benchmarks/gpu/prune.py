"""Clears the GPU code that a card does not use from a shared library, which then compresses well.

A library of CUDA holds fat binaries: containers with the same code for several architectures, as
machine code and as PTX. Their layout is not documented by NVIDIA; what is read here was found in
the files. A container: magic number, version and header size (16 bits each), size (64 bits). An
entry: kind and flags (16 bits each), header size (32 bits), size (64 bits), and at byte 28 the
architecture (32 bits).
"""

import struct
import sys
from pathlib import Path
from typing import NamedTuple

_MAGIC = struct.pack("<I", 0xBA55ED50)
_CONTAINER = struct.Struct("<HHQ")
_ENTRY = struct.Struct("<HHIQ")
_ARCHITECTURE = struct.Struct("<I")
_MACHINE_CODE = 2
_KINDS = (1, 2, 4, 8, 16)
_HEADER = 16  # bytes of a container's header


class _Entry(NamedTuple):
    kind: int
    architecture: int
    start: int
    size: int


def prune(library: bytearray, architecture: int) -> int:
    """Overwrites with zeros the code that a card of an architecture does not use, in place.

    A container without machine code for the architecture is left alone.

    Args:
      library: The content of the shared library.
      architecture: Such as 90 for an H100.

    Returns:
      The number of bytes that were cleared.
    """
    cleared, position = 0, 0
    while (position := library.find(_MAGIC, position)) >= 0:
        entries, end = _entries(library, position)
        if any(e.kind == _MACHINE_CODE and e.architecture == architecture for e in entries):
            for entry in entries:
                if entry.kind != _MACHINE_CODE or entry.architecture != architecture:
                    library[entry.start : entry.start + entry.size] = bytes(entry.size)
                    cleared += entry.size
        position = end
    return cleared


def _entries(library: bytearray, position: int) -> tuple[list[_Entry], int]:
    """Returns the entries of the container at a position, and where to look on."""
    start = position + len(_MAGIC)
    if start + _CONTAINER.size > len(library):
        return [], len(library)
    version, header, size = _CONTAINER.unpack_from(library, start)
    at, end = position + header, position + header + size
    if (version, header) != (1, _HEADER) or end > len(library):
        return [], start  # these bytes only look like the magic number
    found = []
    while at < end:
        if at + 32 > end:
            return found, end
        kind, _, header, size = _ENTRY.unpack_from(library, at)
        if kind not in _KINDS or header < 32 or at + header + size > end:
            return found, end  # of an unknown form: the rest is left alone
        [architecture] = _ARCHITECTURE.unpack_from(library, at + 28)
        found.append(_Entry(kind, architecture, at + header, size))
        at += header + size
    return found, end


if __name__ == "__main__":
    path = Path(sys.argv[1])
    content = bytearray(path.read_bytes())
    print(f"{prune(content, int(sys.argv[2])) / 1e6:.1f} MB cleared")
    path.write_bytes(content)
