"""Example images, and another network beside the student, in the exported page."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from page_students import BROWSER, SIZE, portrait, random_student
from page_tab import (
    chosen,
    downloaded_name,
    drawn,
    images_drawn,
    opened,
    shown,
    wait,
)
from PIL import Image

import jaxdistill as jd
from jaxdistill import exporters

pytestmark = BROWSER


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
