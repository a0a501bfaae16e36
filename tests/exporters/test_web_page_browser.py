"""The exported page in Chromium, without a screen, with a real photograph and a camera's clip.

It needs Chromium, `playwright`, scikit-image's photograph, and onnxruntime-web: from the cache,
from npm, or from the tarball that the variable WEB_RUNTIME names.
"""

import base64
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import page_rate
import pytest
from page_tab import (
    PATIENCE,
    chosen,
    downloaded,
    downloaded_name,
    drawn,
    drop,
    images_drawn,
    opened,
    shown,
    wait,
)
from PIL import Image
from small_student import randomised, small_student
from tiny_run import ROOT

import jaxdistill as jd
from jaxdistill import exporters
from jaxdistill.data import image_ops
from jaxdistill.evaluation.predictor import from_model
from jaxdistill.models import Student, save_weights
from jaxdistill.runtime.errors import ExportError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_rate.chromium_path() is None, reason="needs Chromium"),
    *(
        pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}")
        for name in ("playwright", "skimage")
    ),
]
SIZE = (128, 160)
PARTS = ("read", "resize", "network", "mask", "draw")


def portrait() -> np.ndarray:
    import skimage

    path = Path(skimage.__file__).parent / "data" / "astronaut.png"
    return np.asarray(Image.open(path).convert("RGB"))[:, :500]


def random_student(seed: int = 0) -> Student:
    """A student with ragged masks, half of which is a person."""
    student = randomised(small_student(), seed)
    image = image_ops.resize_image(portrait(), SIZE)
    logits = from_model(student, SIZE).logits(image[None])
    scale = 10 / logits.std()  # many probabilities are 0 or 1
    student.head.kernel[...] *= scale
    student.head.bias[...] = scale * (student.head.bias[...] - np.median(logits))
    return student


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page."""
    runtime = os.environ.get("WEB_RUNTIME")
    student = random_student()
    output = tmp_path_factory.mktemp("served") / "page"
    try:
        exporters.export(student, output, size=SIZE, web_runtime=runtime)
    except ExportError as error:
        if error.code != "web-runtime-missing":
            raise
        pytest.skip(f"needs onnxruntime-web: {error}")
    return output


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    with contextlib.ExitStack() as servers:
        yield lambda folder: servers.enter_context(page_rate.served(folder))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser with a camera, which shows the portrait and moves to and fro."""
    clip = tmp_path_factory.mktemp("camera") / "clip.mjpeg"
    clip.write_bytes(page_rate.camera_clip(portrait()))
    with page_rate.chromium(clip) as browser:
        yield browser


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    """A tab of a telephone's size, with a camera that is allowed."""
    context = chromium.new_context(
        viewport={"width": 390, "height": 844}, permissions=["camera"], accept_downloads=True
    )
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


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


def test_the_camera_gives_frames(folder: Path, tab: Any, serve: Callable) -> None:
    wrong = opened(tab, serve(folder))
    tab.click("#camera")
    drawn(tab, 10)
    assert float(tab.inner_text("#rate")) > 0
    chosen(tab, "blur")
    tab.click("#camera")  # closes it
    assert tab.inner_text("#camera") == "Open the camera"
    assert tab.evaluate("document.getElementById('video').srcObject === null")
    chosen(tab, "mask")  # of the last frame
    assert wrong == []


STREAMS = """
window.streams = [];
const { mediaDevices } = navigator, own = mediaDevices.getUserMedia.bind(mediaDevices);
mediaDevices.getUserMedia = async (wanted) => {
    const stream = await own(wanted);
    window.streams.push(stream);
    return stream;
};
"""
LIVE = "window.streams.filter((each) => each.getTracks()[0].readyState === 'live').length"


def test_a_camera_that_is_asked_for_twice_is_opened_once(
    folder: Path, tab: Any, serve: Callable, tmp_path: Path
) -> None:
    tab.add_init_script(STREAMS)
    wrong = opened(tab, serve(folder))
    twice = "for (let i = 0; i < 2; i += 1) document.getElementById('camera').click();"
    tab.evaluate(twice)
    drawn(tab, 3)
    assert tab.is_hidden("#message")
    assert tab.evaluate(LIVE) == 1
    tab.click("#camera")
    assert tab.evaluate(LIVE) == 0

    Image.fromarray(portrait()).save(tmp_path / "photo.png")
    tab.evaluate("document.getElementById('camera').click()")
    tab.set_input_files("#photo", tmp_path / "photo.png")  # while the camera opens
    wait(tab, lambda: "pixels" in tab.inner_text("#status"))
    wait(tab, lambda: tab.evaluate(LIVE) == 0)
    assert tab.inner_text("#camera") == "Open the camera"
    assert wrong == []


def test_another_network_finds_its_own_masks_in_the_examples(
    tab: Any, serve: Callable, tmp_path: Path
) -> None:
    student, other = random_student(0), random_student(1)
    Image.fromarray(portrait()).save(tmp_path / "1.png")
    Image.fromarray(portrait()[:, ::-1]).save(tmp_path / "2.png")
    exporters.export(other, tmp_path / "other.onnx", size=(96, 64), input="uint8")
    page = tmp_path / "page"
    exporters.export(
        student,
        page,
        size=SIZE,
        web_runtime=os.environ.get("WEB_RUNTIME"),
        examples=[tmp_path / "1.png", tmp_path / "2.png"],
        compare_with=tmp_path / "other.onnx",
    )
    wrong = opened(tab, serve(page))
    drawn(tab, 1)  # the first example
    chosen(tab, "mask")
    networks = {"student": page / "student.onnx", "other": tmp_path / "other.onnx"}
    for number, example in enumerate(("01", "02")):
        before = images_drawn(tab)
        tab.locator("#examples button").nth(number).click()
        drawn(tab, before + 1)
        image = np.asarray(Image.open(page / "examples" / f"{example}.jpg"))
        expected = {name: jd.load(file).predict(image) for name, file in networks.items()}
        assert (expected["student"] == expected["other"]).mean() < 0.9
        for index, (name, mask) in enumerate(expected.items()):
            assert ((shown(tab, index) > 127) == mask).mean() >= 0.99
            caption = tab.locator("figcaption").nth(index).inner_text()
            assert caption.startswith(f"{name}: ")
            share = float(re.search(r"([\d.]+) %", caption).group(1))
            assert abs(share - 100 * mask.mean()) < 1.5

    before = images_drawn(tab)
    tab.uncheck("#compare")
    drawn(tab, before + 1)
    assert tab.locator("figure:visible").count() == 1
    tab.click("#camera")
    drawn(tab, before + 4)
    tab.check("#compare")
    wait(tab, lambda: tab.locator("figure:visible").count() == 2)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert wrong == []


def test_the_student_works_without_the_other_network(
    folder: Path, tab: Any, serve: Callable, tmp_path: Path
) -> None:
    page = shutil.copytree(folder, tmp_path / "page")
    Image.fromarray(portrait()).save(page / "photo.jpg")
    networks = [{"name": "student", "file": "student.onnx"}, {"name": "b", "file": "b.onnx"}]
    (page / "page.json").write_text(
        json.dumps({"networks": networks, "examples": ["photo.jpg", "absent.jpg"]})
    )
    tab.goto(serve(page))
    drawn(tab, 1)
    assert tab.locator("figure:visible").count() == 1
    tab.locator("#examples button").nth(1).click()
    tab.wait_for_selector("#message:not([hidden])")
    assert "absent.jpg" in tab.inner_text("#message")


def test_an_example_that_comes_late_does_not_replace_a_photo(
    folder: Path, tab: Any, serve: Callable, tmp_path: Path
) -> None:
    page = shutil.copytree(folder, tmp_path / "page")
    networks = [{"name": "student", "file": "student.onnx"}]
    (page / "page.json").write_text(json.dumps({"networks": networks, "examples": ["slow.jpg"]}))
    held: list[Any] = []
    tab.route("**/slow.jpg", lambda route: held.append(route))
    tab.goto(serve(page))
    wait(tab, lambda: tab.evaluate("'ready' in document.body.dataset"))
    wait(tab, lambda: any(route.request.resource_type == "fetch" for route in held))
    Image.fromarray(portrait()).save(tmp_path / "photo.png")
    tab.set_input_files("#photo", tmp_path / "photo.png")
    drawn(tab, 1)
    for route in held:
        route.fulfill(path=tmp_path / "photo.png")
    chosen(tab, "mask")
    chosen(tab, "cutout")
    assert images_drawn(tab) == 3
    assert downloaded_name(tab) == "photo-cutout.png"


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


def test_a_camera_that_is_not_allowed_is_named(
    chromium: Any, folder: Path, serve: Callable
) -> None:
    context = chromium.new_context(permissions=[])
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    tab.goto(serve(folder))
    tab.click("#camera")
    tab.wait_for_selector("#message:not([hidden])")
    assert "not allowed" in tab.inner_text("#message")
    context.close()


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


@pytest.mark.parametrize(
    "name",
    [
        *("ort-wasm-simd-threaded.wasm", "ort.wasm.bundle.min.js"),
        *("student.onnx", "student.json", "page.json"),
    ],
)
def test_a_missing_file_is_named(
    folder: Path, tab: Any, serve: Callable, tmp_path: Path, name: str
) -> None:
    copy = shutil.copytree(folder, tmp_path / "page")
    [lost] = copy.rglob(name)
    lost.rename(tmp_path / name)
    tab.goto(serve(copy))
    tab.wait_for_selector("#message:not([hidden])")
    assert name in tab.inner_text("#message")
    assert tab.is_disabled("#camera")


def test_a_page_opened_as_a_file_says_what_to_do(folder: Path, tab: Any) -> None:
    tab.goto((folder / "index.html").as_uri())
    tab.wait_for_selector("#not-started", state="visible")
    assert "http.server" in tab.inner_text("#not-started")


def test_the_frame_rate_is_measured(folder: Path, tmp_path: Path) -> None:
    """In a process of its own: this one's Playwright runs already."""
    photo, weights = tmp_path / "photo.png", tmp_path / "student.safetensors"
    Image.fromarray(portrait()).save(photo)
    save_weights(randomised(small_student()), weights)
    options = ["--image", photo, "--size", *map(str, SIZE), "--rounds", "1", "--readings", "1"]
    if runtime := os.environ.get("WEB_RUNTIME"):
        options += ["--web-runtime", runtime]
    program = ROOT / "tools" / "benchmarks" / "page_rate.py"
    printed = subprocess.check_output([sys.executable, program, weights, *options], text=True)
    name, rate, *parts = printed.splitlines()[-1].strip("| ").split(" | ")
    assert name == str(weights)
    assert float(rate) > 0
    assert len(parts) == len(PARTS)
    assert all(float(part) >= 0 for part in parts)
