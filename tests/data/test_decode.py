"""Encoded images, sound and damaged, to pixels; masks to bytes and back."""

import contextlib
import warnings

import numpy as np
import pytest
from coco_folders import encode, pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

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


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_masks_survive_their_encoding(height, width, seed):
    mask = np.random.default_rng(seed).integers(0, 2, (height, width), np.uint8)
    np.testing.assert_array_equal(decode.decode_mask(decode.encode_mask(mask)), mask * 255)
