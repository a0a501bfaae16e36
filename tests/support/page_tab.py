"""An exported page in a browser's tab: opened, and used as a person would."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PATIENCE = 120_000  # ms; of a machine that does other things too


def opened(tab: Any, url: str) -> list[str]:
    """Opens a page, and returns a list that its errors and requests to others will be added to."""
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    own = (url, "blob:", "data:")
    tab.on("request", lambda request: request.url.startswith(own) or wrong.append(request.url))
    tab.goto(url)
    return wrong


def drop(tab: Any, target: str, path: Path) -> None:
    """Drops a file, as a mouse does."""
    content = list(path.read_bytes())
    transfer = tab.evaluate_handle(
        """([bytes, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name));
            return transfer;
        }""",
        [content, path.name],
    )
    for event in ("dragenter", "dragover", "drop"):
        tab.dispatch_event(target, event, {"dataTransfer": transfer})


def images_drawn(tab: Any) -> int:
    return int(tab.get_attribute("#result", "data-drawn") or 0)


def wait(tab: Any, done: Callable[[], bool]) -> None:
    """Waits for the page; its policy forbids Playwright's own waiting for a function."""
    for _ in range(PATIENCE // 50):
        if done():
            return
        tab.wait_for_timeout(50)
    raise TimeoutError(tab.inner_text("body"))


def drawn(tab: Any, count: int) -> None:
    """Waits until the page has drawn so many images."""
    wait(tab, lambda: images_drawn(tab) >= count)


def chosen(tab: Any, view: str) -> None:
    """Chooses a view, and waits until it is drawn."""
    before = images_drawn(tab)
    tab.locator(f"label:has(input[value={view}])").click()
    drawn(tab, before + 1)


def downloaded(tab: Any, path: Path) -> np.ndarray:
    with tab.expect_download() as download:
        tab.click("#save")
    download.value.save_as(path)
    return np.asarray(Image.open(path))


def downloaded_name(tab: Any) -> str:
    """Returns the name that the page gives to the image."""
    with tab.expect_download() as download:
        tab.click("#save")
    return download.value.suggested_filename


def shown(tab: Any, index: int) -> np.ndarray:
    """Returns the grey levels that a figure shows."""
    url = tab.evaluate(
        "(index) => document.querySelectorAll('figure canvas')[index].toDataURL()", index
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L"))
