"""Untrusted images, annotations and prepared data sets: attacks that were found, and that fail."""

import io
import json
import os
import struct
import time
import zlib
from pathlib import Path

import coco_folders
import pytest
from PIL import Image
from refused import refused

from jaxdistill import config
from jaxdistill.data import decode, splits
from jaxdistill.data.sources import coco_json, drawing
from jaxdistill.runtime.errors import DataError


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    body = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def head(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def test_the_largest_image_is_accepted() -> None:
    rows = zlib.compress(bytes(2**14 + 1) * 2**13, 1)  # grey
    kind = b"IHDR", struct.pack(">IIBBBBB", 2**14, 2**13, 8, 0, 0, 0, 0)
    content = png(kind, (b"IDAT", rows), (b"IEND", b""))
    assert decode.decode_mask(content).size == decode.MAX_PIXELS
    wider = b"IHDR", struct.pack(">IIBBBBB", 2**14 + 1, 2**13, 8, 0, 0, 0, 0)
    with pytest.raises(decode.ImageError, match="more than 134 million"):
        decode.decode(png(wider, (b"IDAT", rows), (b"IEND", b"")))


def bomb_in_tiles() -> bytes:
    """A TIFF of 16 x 16 grey pixels, in one deflated tile of a gigabyte."""
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 2**15, 323: 2**15}
    tags |= {324: 8, 325: len(ZEROS)}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    table = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(ZEROS)) + ZEROS + table


def scans(count: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=True)
    body, marker, last = file.getvalue().removesuffix(b"\xff\xd9").rpartition(b"\xff\xda")
    return body + (marker + last) * count + b"\xff\xd9"


ZEROS = zlib.compress(bytes(2**28), 9)


@pytest.mark.parametrize(
    "content",
    [
        png(head(2**31 - 1, 2**31 - 1), (b"IDAT", ZEROS), (b"IEND", b"")),
        png(head(8, 8), (b"iCCP", b"a\0\0" + ZEROS), (b"IDAT", b"")),
        png(head(8, 8), (b"zTXt", b"a\0\0" + ZEROS), (b"IDAT", b"")),
        png(head(8, 8), (b"iTXt", b"a\0\1\0\0\0" + ZEROS), (b"IDAT", b"")),
        bomb_in_tiles(),
        scans(2000),
    ],
    ids=["size", "iCCP", "zTXt", "iTXt", "tiles", "scans"],
)
def test_a_bomb_does_not_go_off(content: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(decode.ImageError):
        decode.decode(content, upright=True)
    assert time.perf_counter() - began < 2


# Annotations


def test_an_outline_is_not_walked_forever() -> None:
    """pycocotools ends the process when it does not get the memory."""
    corners = [-64.0, -64.0, 128.0, 128.0] * 500_000
    with refused(DataError, "segmentation-too-large", "a.jpg"):
        drawing.draw(coco_json.CocoImage(1, "a.jpg", 64, 64, ([corners],)))


def test_sizes_are_believed_only_if_the_image_has_them(tmp_path: Path) -> None:
    """Otherwise a mask of 2**62 pixels would be drawn."""
    root = coco_folders.discs(tmp_path / "coco")
    [path] = (root / "annotations").glob("*train*")
    content = json.loads(path.read_bytes())
    content["images"][0] |= {"height": 2**31 - 1, "width": 2**31 - 1}
    path.write_text(json.dumps(content))
    with refused(DataError, "image-size-differs", "1.png"):
        splits.open_split(config.Data(root=root, prepared=tmp_path / "prepared"), "train")


def test_a_link_is_followed_but_a_pipe_is_not_an_image(tmp_path: Path) -> None:
    """A JSON file cannot make a link, so a link in the folder is the user's own."""
    root = coco_folders.discs(tmp_path / "coco")
    image = root / "images" / "train2017" / "1.png"
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    data = config.Data(root=root, prepared=tmp_path / "prepared")
    assert "1.png" in splits.open_split(data, "train").names
    image.unlink()
    os.mkfifo(image)
    with refused(DataError, "missing-image", "1.png"):
        splits.open_split(data, "train")


@pytest.mark.parametrize(
    "change",
    [
        {"parts": ["x"]},
        {"ids": [1]},
        {"names": []},
        {"content_keys": ["x"]},
        {"ids": ["x"] * 8},
        {"parts": None},
    ],
)
def test_a_prepared_data_set_whose_lists_are_wrong_is_named(tmp_path: Path, change: dict) -> None:
    root = coco_folders.discs(tmp_path / "coco")
    data = config.Data(root=root, prepared=tmp_path / "prepared")
    splits.open_split(data, "train")
    [path] = (tmp_path / "prepared").rglob("metadata.json")
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with refused(DataError, "prepared-data-damaged", "prepared"):
        splits.open_split(data, "train")
