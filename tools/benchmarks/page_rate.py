"""Measures frames per second of exported pages in Chromium, with a camera that plays an image.

    python tools/benchmarks/page_rate.py PAGE [PAGE ...] --image PHOTO

PAGE is a folder that `jaxdistill export NETWORK page/` has written. Chromium runs without a screen
or a GPU, and its camera shows the image, 640x480 at 30 frames per second, moving to and fro. The
pages take turns, and medians are printed. Run it while nothing else runs. It needs Chromium and
`playwright`, which the extra `dev` installs.
"""

import argparse
import functools
import http.server
import shutil
import statistics
import tempfile
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 480, 640
SETTLING, READING = 4_000, 500
"""Milliseconds until a rate is read for the first time, and between two readings."""
NO_RATE = "\u2013"  # a dash


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a line per request."""

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE")
    parser.add_argument("--image", required=True, type=Path, help="what the camera shows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--readings", type=int, default=10, help="of the rate, per page and round")
    options = parser.parse_args(arguments)
    found = map(shutil.which, ("chromium", "chromium-browser", "chrome"))
    chromium = next(filter(None, found), None)
    if chromium is None:
        parser.error("Chromium was not found: install `chromium`")
    for page in options.pages:
        if not (page / "index.html").is_file():
            parser.error(f"{page} is not a folder of a page")
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mjpeg"
        clip.write_bytes(_frames(options.image))
        rows = _measured(chromium, clip, options)
    parts = [part for part in next(iter(rows.values())) if part != "frames per second"]
    print("| page | frames per second |", " | ".join(f"{part}, ms" for part in parts), "|")
    print("|---|---|" + "---|" * len(parts))
    for page, row in rows.items():
        cells = [f"{statistics.median(row[name]):.1f}" for name in ("frames per second", *parts)]
        print(f"| {page} |", " | ".join(cells), "|")


def _frames(path: Path) -> bytes:
    """Returns a clip of JPEG images: a photo whose left edge moves by 40 pixels and back."""
    photo = np.asarray(Image.open(path).convert("RGB").resize((WIDTH - 40, HEIGHT)))[..., ::-1]
    frames = []
    for phase in np.linspace(0, 2 * np.pi, 30, endpoint=False):
        frame = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
        left = 20 + round(20 * np.sin(phase))
        frame[:, left : left + WIDTH - 40] = photo
        frames.append(cv2.imencode(".jpg", frame)[1].tobytes())
    return b"".join(frames)


def _measured(
    chromium: str, clip: Path, options: argparse.Namespace
) -> dict[Path, dict[str, list[float]]]:
    """Returns the readings of every page's rate and of its parts."""
    from playwright.sync_api import sync_playwright

    flags = [
        *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={clip}"),
    ]
    rows: dict[Path, dict[str, list[float]]] = {page: defaultdict(list) for page in options.pages}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        for _ in range(options.rounds):
            for page in options.pages:
                handler = functools.partial(Handler, directory=page)
                server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
                threading.Thread(target=server.serve_forever, daemon=True).start()
                tab = browser.new_context(permissions=["camera"]).new_page()
                tab.goto(f"http://localhost:{server.server_port}/")
                tab.click("#camera")
                tab.wait_for_timeout(SETTLING)
                while tab.inner_text("#rate") == NO_RATE:  # the first frames are slow to come
                    tab.wait_for_timeout(READING)
                for _ in range(options.readings):
                    tab.wait_for_timeout(READING)
                    for name, value in _reading(tab).items():
                        rows[page][name].append(value)
                tab.context.close()
                server.shutdown()
                server.server_close()
        browser.close()
    return rows


def _reading(tab: Any) -> dict[str, float]:
    """Returns frames per second and the milliseconds of each part, as the page shows them."""
    shown = {"frames per second": float(tab.inner_text("#rate"))}
    for cell in tab.locator("[data-part]").all():
        shown[cell.get_attribute("data-part")] = float(cell.inner_text().split()[0])
    return shown


if __name__ == "__main__":
    main()
