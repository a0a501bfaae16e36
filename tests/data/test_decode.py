"""Encoded images, sound and damaged, to pixels; masks to bytes and back."""

import contextlib
import io
import warnings

import numpy as np
import pytest
from coco_folders import encode, pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from jaxdistill.data import decode


def test_an_image_bomb_is_refused_before_it_is_decoded():
    header = encode(np.zeros((1, 1, 3), np.uint8))
    # The IHDR chunk: width and height of 60,000, and its checksum mended.
    chunk = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + header[24:29]
    bomb = header[:12] + chunk + PngImagePlugin._crc32(chunk).to_bytes(4, "big") + header[33:]
    with pytest.raises(decode.ImageError, match="60000 x 60000 pixels"):
        decode.decode(bomb)


def test_sizes_beyond_pillows_limit_are_allowed_without_a_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode.decode(encode(pixels(4, 4))).shape == (4, 4, 3)
    assert Image.MAX_IMAGE_PIXELS == 4
    with contextlib.suppress(decode.ImageError):
        decode.decode(b"not an image")
    assert Image.MAX_IMAGE_PIXELS == 4


def test_values_of_32_bits_are_refused():
    with pytest.raises(decode.ImageError, match="32-bit"):
        decode.decode(encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # Pillow's
@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF"]), st.data())
def test_no_damaged_image_does_harm(kind, draw):
    data = bytearray(encode(pixels(9, 7), kind))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(decode.ImageError):
        assert decode.decode(bytes(data[: draw.draw(st.integers(0, len(data)))])).ndim == 3


def test_the_first_frame_of_a_file_is_taken():
    frames = [Image.fromarray(pixels(8, 8)).quantize(4) for _ in range(2)]
    frames[1] = frames[1].rotate(180)
    gif = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode.decode(gif), np.asarray(frames[0].convert("RGB")))


def stereo(count=2):
    """An MPO of several images, as phones write it."""
    frames = [Image.fromarray(pixels(16, 8)) for _ in range(count)]
    return encode(frames[0], "MPO", save_all=True, append_images=frames[1:])


def many_scans(data: bytes) -> bytes:
    """Adds empty scans to the end of the first image of a JPEG file."""
    return data.replace(b"\xff\xd9", b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 100 + b"\xff\xd9", 1)


@pytest.mark.parametrize("make", [stereo, lambda: encode(pixels(16, 8), "JPEG")])
def test_the_limit_of_scans_holds_for_jpeg_and_mpo(make):
    assert decode.decode(make()).shape == (16, 8, 3)
    with pytest.raises(decode.ImageError, match="scans"):
        decode.decode(many_scans(make()))


def test_a_scan_behind_a_comment_that_holds_an_end_is_counted():
    data = many_scans(encode(pixels(16, 8), "JPEG"))
    first = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    with pytest.raises(decode.ImageError, match="scans"):
        decode.decode(data[:first] + b"\xff\xfe\0\4\xff\xd9" + data[first:])


def test_the_video_that_a_phone_appends_is_no_scan():
    for photo in (encode(pixels(16, 8), "JPEG"), encode(pixels(16, 8), "JPEG", progressive=True)):
        assert decode.decode(photo + b"ftypmp42" + b"\xff\xda" * 200).shape == (16, 8, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_pillow_turns_it(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        data = encode(pixels(6, 9), kind, exif=exif)
        with Image.open(io.BytesIO(data)) as image:
            turned = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        np.testing.assert_array_equal(decode.decode(data, upright=True), turned)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_as_stored_unless_it_is_to_be_upright(orientation, compression, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(pixels(6, 9), "TIFF", exif=exif, compression=compression)
    np.testing.assert_array_equal(decode.decode(data), pixels(6, 9))
    (tmp_path / "a.tif").write_bytes(data)
    assert decode.orientation(tmp_path / "a.tif") == (orientation, (6, 9))


@pytest.mark.parametrize(
    "damage", [b"", b"II", b"II*\0\xff\xff\0\0", b"MM\0*\0\0\0\x08\0\x09\1\x12"]
)
def test_a_damaged_exif_is_no_warning(damage, tmp_path):
    data = encode(pixels(6, 9), "JPEG", exif=b"Exif\0\0" + damage)
    (tmp_path / "a.jpg").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode.decode(data, upright=True).shape == (6, 9, 3)
        assert decode.orientation(tmp_path / "a.jpg") == (1, (6, 9))


@pytest.mark.parametrize(("module", "kind"), [("PIL", "AVIF"), ("pillow_heif", "HEIF")])
def test_formats_of_phones_are_read_where_the_library_is_there(module, kind):
    pytest.importorskip(module)
    if kind not in decode.formats():
        pytest.skip(f"Pillow was built without {kind}")
    smooth = np.full((16, 24, 3), 90, np.uint8)
    decoded = decode.decode(encode(smooth, kind))
    np.testing.assert_allclose(decoded, smooth, atol=3)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_masks_survive_their_encoding(height, width, seed):
    mask = np.random.default_rng(seed).integers(0, 2, (height, width), np.uint8)
    np.testing.assert_array_equal(decode.decode_mask(decode.encode_mask(mask)), mask * 255)
