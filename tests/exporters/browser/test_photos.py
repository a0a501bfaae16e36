"""Photos in the exported page: masks, views, and what is no image."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from page_students import BROWSER, PARTS, portrait
from page_tab import (
    chosen,
    downloaded,
    drawn,
    drop,
    images_drawn,
    opened,
)
from PIL import Image

import jaxdistill as jd
from jaxdistill.data import image_ops

pytestmark = BROWSER


def test_masks_of_a_photo_are_those_of_the_predictor(
    folder: Path, tab: Any, serve: Callable, tmp_path: Path
) -> None:
    photo, found = tmp_path / "a b.png", tmp_path / "found.png"
    Image.fromarray(portrait()).save(photo)
    wrong = opened(tab, serve(folder))
    drop(tab, "#frame", photo)  # before the network is loaded
    drawn(tab, 1)
    assert tab.is_hidden("#message")
    for part in PARTS:
        assert tab.inner_text(f"[data-part={part}]").endswith(" ms")
    predictor = jd.load(folder / "student.onnx")
    expected = predictor.predict(portrait())
    assert 0.4 < expected.mean() < 0.6

    chosen(tab, "mask")
    mask = downloaded(tab, found)
    assert mask.shape == (512, 500, 4)
    agreement = ((mask[..., 0] > 127) == expected).mean()
    assert agreement >= 0.999, agreement
    soft = predictor.predict(portrait(), soft=True)
    assert np.abs(mask[..., 0] / 255 - soft).mean() < 0.01

    chosen(tab, "cutout")
    cutout = downloaded(tab, found)
    np.testing.assert_array_equal(cutout[..., 3], mask[..., 0])
    solid = cutout[..., 3] == 255
    assert np.abs(cutout[solid][:, :3].astype(int) - portrait()[solid]).max() <= 1

    green = tmp_path / "green.png"
    Image.new("RGB", (30, 20), (0, 200, 0)).save(green)
    chosen(tab, "background")
    before = images_drawn(tab)
    drop(tab, "#backdrop", green)
    drawn(tab, before + 1)
    replaced = downloaded(tab, found)
    behind = mask[..., 0] == 0
    assert np.abs(replaced[behind][:, :3].astype(int) - (0, 200, 0)).max() <= 1

    chosen(tab, "blur")
    blurred = downloaded(tab, found)
    assert np.abs(blurred[solid][:, :3].astype(int) - portrait()[solid]).max() <= 1
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390

    chosen(tab, "mask")
    face = portrait()[60:160, 150:260]  # which is enlarged, and not reduced
    Image.fromarray(face).save(photo)
    before = images_drawn(tab)
    tab.set_input_files("#photo", photo)
    drawn(tab, before + 1)
    agreement = ((downloaded(tab, found)[..., 0] > 127) == predictor.predict(face)).mean()
    assert agreement >= 0.999, agreement
    assert wrong == []


def test_images_are_resized_to_the_bytes_that_predict_computes(
    folder: Path, tab: Any, serve: Callable
) -> None:
    tab.goto(serve(folder))
    random = np.random.default_rng(0)
    for height, width, rows, columns in [(1, 1, 3, 5), *random.integers(1, 120, (12, 4)).tolist()]:
        image = random.integers(0, 256, (height, width, 4), np.uint8)
        found = tab.evaluate(
            """async ([encoded, width, height, rows, columns]) => {
                const { resizedRgb } = await import("/pixels.js");
                const bytes = Uint8ClampedArray.from(atob(encoded), (each) => each.charCodeAt());
                const rgb = resizedRgb(new ImageData(bytes, width, height), rows, columns);
                return btoa(String.fromCharCode(...rgb));
            }""",
            [base64.b64encode(image).decode(), width, height, rows, columns],
        )
        actual = np.frombuffer(base64.b64decode(found), np.uint8)
        expected = image_ops.resize_image(np.ascontiguousarray(image[..., :3]), (rows, columns))
        np.testing.assert_array_equal(actual.reshape(rows, columns, 3), expected)


def test_the_last_image_does_not_show_through_a_transparent_one(
    folder: Path, tab: Any, serve: Callable, tmp_path: Path
) -> None:
    wrong = opened(tab, serve(folder))
    transparent = np.zeros((*portrait().shape[:2], 4), np.uint8)
    for number, image in enumerate((portrait(), transparent, transparent[..., :3]), start=1):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        before = images_drawn(tab)
        tab.set_input_files("#photo", tmp_path / f"{number}.png")
        drawn(tab, before + 1)
        if number == 1:
            chosen(tab, "mask")
    black = downloaded(tab, tmp_path / "black.png")
    before = images_drawn(tab)
    tab.set_input_files("#photo", tmp_path / "1.png")
    drawn(tab, before + 1)
    tab.set_input_files("#photo", tmp_path / "2.png")
    drawn(tab, before + 2)
    np.testing.assert_array_equal(downloaded(tab, tmp_path / "found.png"), black)
    assert wrong == []


def test_what_is_not_an_image_is_named_and_forgotten(
    folder: Path, tab: Any, serve: Callable, tmp_path: Path
) -> None:
    wrong = opened(tab, serve(folder))
    (tmp_path / "notes.txt").write_text("no image")
    drop(tab, "#frame", tmp_path / "notes.txt")
    tab.wait_for_selector("#message:not([hidden])")
    assert "notes.txt" in tab.inner_text("#message")
    Image.fromarray(portrait()).save(tmp_path / "photo.jpg")
    tab.set_input_files("#photo", tmp_path / "photo.jpg")
    drawn(tab, 1)
    assert tab.is_hidden("#message")
    assert wrong == []
