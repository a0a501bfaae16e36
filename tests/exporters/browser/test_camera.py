"""The camera of the exported page."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from page_students import BROWSER, PARTS, SIZE, portrait
from page_tab import (
    PATIENCE,
    chosen,
    drawn,
    opened,
    wait,
)
from PIL import Image
from small_student import randomised, small_student
from tiny_run import ROOT

from jaxdistill.models import save_weights

pytestmark = BROWSER


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
