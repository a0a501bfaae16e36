"""A page in Chromium, without a screen, with a real photo and a camera's clip.

It needs Chromium, `playwright`, scikit-image's photo, and onnxruntime-web: from the cache,
from npm, or from the tarball that the variable WEB_RUNTIME names.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import page_rate
import pytest
from page_students import SIZE, portrait, random_student
from page_tab import PATIENCE

from jaxdistill import exporters
from jaxdistill.runtime.errors import ExportError


@pytest.fixture(scope="session")
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
