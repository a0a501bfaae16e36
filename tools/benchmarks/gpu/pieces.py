"""A kit in pieces, for machines without a network that take files of limited size.

The pieces are those of one archive, which holds the kit, wheels, and a cut onnxruntime. This module
needs the standard library, and for networks without weights NumPy and onnx.
"""

import lzma
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

_NAME = re.compile(r"kit\.(\d+)-of-(\d+)")
# Of a library for one card only, 256 MB are mostly zeros; the filter is made for x86's calls.
_FILTERS = [
    {"id": lzma.FILTER_X86},
    {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 28},
]
_CHUNK = 1 << 20


def split(content: Path, folder: Path, size: int, filters: list[dict] = _FILTERS) -> list[Path]:
    """Packs a folder and returns the pieces of the archive.

    Args:
      content: What to pack: `kit`, and what else `receive` knows.
      folder: Where the pieces go; it is emptied before.
      size: The most bytes of a piece.
      filters: Of the compression; the default takes 3 GB of memory.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    archive = folder / "archive"
    with (
        lzma.open(archive, "wb", filters=filters) as file,
        tarfile.open(fileobj=file, mode="w|") as tar,
    ):
        tar.add(content, arcname=".")
    count = -(-archive.stat().st_size // size)
    found = []
    with archive.open("rb") as file:
        for number in range(count):
            found.append(folder / f"kit.{number}-of-{count}")
            found[-1].write_bytes(file.read(size))
    archive.unlink()
    return found


def receive(piece: Path, work: Path) -> bool:
    """Keeps a piece; with the last one, unpacks and installs everything.

    Args:
      piece: The file.
      work: Where to: the kit will be in `work/kit`, packages in `work/site`.

    Returns:
      Whether the kit is complete.
    """
    match = _NAME.fullmatch(piece.name)
    if not match:
        sys.exit(f"error: {piece} is no piece of a kit, whose names are such as kit.0-of-2")
    kept = work / "pieces"
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(piece, kept / piece.name)
    count = int(match[2])
    expected = [kept / f"kit.{number}-of-{count}" for number in range(count)]
    missing = [each.name for each in expected if not each.exists()]
    if missing:
        print(f"{piece.name} is here; still missing: {', '.join(missing)}")
        return False
    _unpack(expected, work)
    return True


def _unpack(found: list[Path], work: Path) -> None:
    whole = work / "archive"
    with whole.open("wb") as joined:
        for each in found:
            with each.open("rb") as file:
                shutil.copyfileobj(file, joined, _CHUNK)
    with lzma.open(whole) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        tar.extractall(work, filter="data")
    whole.unlink()
    site = work / "site"
    if wheels := sorted((work / "wheels").glob("*.whl")):
        options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
        install = [sys.executable, "-m", "pip", "install", *options, "--target", str(site)]
        subprocess.run([*install, *map(str, wheels)], check=True)
    if (work / "onnxruntime").is_dir():
        shutil.copytree(work / "onnxruntime", site, dirs_exist_ok=True)
    if skeletons := sorted((work / "kit" / "networks").glob("*.skeleton")):
        import skeleton

        for each in skeletons:
            skeleton.fill(each, each.with_suffix(""))
