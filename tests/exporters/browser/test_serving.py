"""The exported page with a file missing, and as a file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_students import BROWSER

pytestmark = BROWSER


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
