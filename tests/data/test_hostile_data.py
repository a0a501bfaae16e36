"""Pictures, annotations and data sets of somebody else's: what the fuzzer and thought found."""

import io
import json
import os
import struct
import time
import zlib
from pathlib import Path

import pytest
import tiny_run
from PIL import Image

from jaxdistill import config
from jaxdistill.data import decode, loader
from jaxdistill.data.sources import coco_json
from jaxdistill.runtime.errors import UserError


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    body = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def head(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def test_the_largest_picture_is_just_taken() -> None:
    rows = zlib.compress(bytes(2**14 + 1) * 2**13, 1)  # grey
    kind = b"IHDR", struct.pack(">IIBBBBB", 2**14, 2**13, 8, 0, 0, 0, 0)
    content = png(kind, (b"IDAT", rows), (b"IEND", b""))
    assert decode.decode_mask(content).size == decode.LARGEST
    wider = b"IHDR", struct.pack(">IIBBBBB", 2**14 + 1, 2**13, 8, 0, 0, 0, 0)
    with pytest.raises(decode.PictureError, match="more than 134 million"):
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
    *body, last = file.getvalue().rpartition(b"\xff\xda")
    return b"".join(body) + last.removesuffix(b"\xff\xd9") + (b"\xff\xda" + last) * count


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
    with pytest.raises(decode.PictureError):
        decode.decode(content, upright=True)
    assert time.perf_counter() - began < 2


# Annotations


def test_an_outline_is_not_walked_forever() -> None:
    """pycocotools ended the process, where the system refused it the memory."""
    corners = [-64.0, -64.0, 128.0, 128.0] * 500_000
    with pytest.raises(UserError, match="outline of more than 1 million pixels"):
        coco_json.draw(coco_json.Picture(1, "a.jpg", 64, 64, ([corners],)))


def test_sizes_are_believed_only_once_the_picture_has_them(tmp_path: Path) -> None:
    """Else a mask of 2**62 pixels would be drawn."""
    root = tiny_run.folder(tmp_path / "coco")
    [path] = (root / "annotations").glob("*train*")
    content = json.loads(path.read_bytes())
    content["images"][0] |= {"height": 2**31 - 1, "width": 2**31 - 1}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="mask and image of different size"):
        loader.open_split(config.Data(root=root, prepared=tmp_path / "prepared"), "train")


def test_a_link_is_the_users_own_but_a_pipe_is_no_picture(tmp_path: Path) -> None:
    """A JSON file cannot make a link; whoever has one in the folder wants it followed."""
    root = tiny_run.folder(tmp_path / "coco")
    picture = root / "images" / "train2017" / "1.png"
    picture.rename(tmp_path / "elsewhere.png")
    picture.symlink_to(tmp_path / "elsewhere.png")
    data = config.Data(root=root, prepared=tmp_path / "prepared")
    assert "1.png" in loader.open_split(data, "train").names
    picture.unlink()
    os.mkfifo(picture)
    with pytest.raises(UserError, match=r"names the picture 1\.png, which is not in"):
        loader.open_split(data, "train")


@pytest.mark.parametrize(
    "change", [{"parts": ["x"]}, {"ids": [1]}, {"names": []}, {"ids": ["x"] * 8}, {"parts": None}]
)
def test_a_prepared_data_set_whose_lists_are_wrong_is_named(tmp_path: Path, change: dict) -> None:
    root = tiny_run.folder(tmp_path / "coco")
    data = config.Data(root=root, prepared=tmp_path / "prepared")
    loader.open_split(data, "train")
    [path] = (tmp_path / "prepared").rglob("metadata.json")
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(UserError, match="is damaged"):
        loader.open_split(data, "train")
