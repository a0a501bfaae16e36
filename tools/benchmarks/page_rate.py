"""Measures frames per second of exported pages in Chromium, with a camera that shows an image.

    python tools/benchmarks/page_rate.py STUDENT [STUDENT ...] --image PHOTO

STUDENT is what `runtimes.py` takes: a run folder, a `.safetensors` file, or a configuration, with
overrides after spaces, whose student has random weights. Chromium runs without a screen or a GPU,
and its camera shows the image, 640x480 at 30 frames per second, moving to and fro. The pages take
turns, and medians are printed. Run it while nothing else runs. It needs Chromium and `playwright`,
which the extra `dev` installs.
"""

import argparse
import functools
import http.server
import shutil
import statistics
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import runtime_students
from jaxtyping import UInt8
from PIL import Image

from jaxdistill import exporters
from jaxdistill.data import image_ops
from jaxdistill.runtime.errors import ConfigError, ExportError, command

HEIGHT, WIDTH = 480, 640
SETTLING, READING, PATIENCE = 4_000, 500, 60_000
"""Milliseconds until a rate is read for the first time, between two readings, and at most until
there is one."""
NO_RATE = "\u2013"  # a dash
RATE = "frames per second"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("students", nargs="+", metavar="STUDENT")
    parser.add_argument("--image", required=True, type=Path, help="what the camera shows")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--readings", type=int, default=10, help="of the rate, per page and round")
    parser.add_argument("--web-runtime", type=Path, help="see `jaxdistill export`")
    options = parser.parse_args(arguments)
    photo = np.asarray(Image.open(options.image).convert("RGB"))
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mjpeg"
        clip.write_bytes(camera_clip(photo))
        images, pages = image_ops.resize_image(photo, tuple(options.size))[None], {}
        for index, student in enumerate(options.students):
            pages[student] = Path(folder) / f"page{index}"
            exporters.export(
                runtime_students.load(student, images),
                pages[student],
                size=images.shape[1:3],
                web_runtime=options.web_runtime,
            )
        readings = _measured(pages, clip, options.rounds, options.readings)
    parts = [name for name in next(iter(readings.values())) if name != RATE]
    print(f"| student | {RATE} |", " | ".join(f"{part}, ms" for part in parts), "|")
    print("|---|---|" + "---|" * len(parts))
    for student, values in readings.items():
        cells = [f"{statistics.median(values[name]):.1f}" for name in (RATE, *parts)]
        print(f"| {student} |", " | ".join(cells), "|")


def camera_clip(photo: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Returns a clip of JPEG images: a photo that moves to the right by 40 pixels and back."""
    resized = image_ops.resize_image(photo, (HEIGHT, WIDTH - 40))[..., ::-1]
    frames = []
    for phase in np.linspace(0, 2 * np.pi, 30, endpoint=False):
        frame = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
        left = 20 + round(20 * np.sin(phase))
        frame[:, left : left + WIDTH - 40] = resized
        frames.append(cv2.imencode(".jpg", frame)[1].tobytes())
    return b"".join(frames)


def chromium_path() -> str | None:
    """Returns the path of Chromium; None where it is not installed."""
    found = map(shutil.which, ("chromium", "chromium-browser", "chrome"))
    return next(filter(None, found), None)


@contextmanager
def chromium(clip: Path) -> Iterator[Any]:
    """Opens a browser that contacts no host by itself, and whose camera shows a clip.

    Args:
      clip: JPEG images, one after the other.

    Raises:
      ConfigError: There is no Chromium (`no-chromium`).
    """
    from playwright.sync_api import sync_playwright

    if (path := chromium_path()) is None:
        raise ConfigError("Chromium was not found; install it", code="no-chromium")
    flags = [
        *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update"),
        *("--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={clip}"),
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A tab that is closed breaks its connections."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder to this machine, and yields its address."""
    server = _Server(("127.0.0.1", 0), functools.partial(_Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()
    server.server_close()


def _measured(
    pages: dict[str, Path], clip: Path, rounds: int, count: int
) -> dict[str, dict[str, list[float]]]:
    """Returns what every page showed: frames per second, and milliseconds of each part."""
    readings: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in pages}
    with chromium(clip) as browser:
        for _ in range(rounds):
            for name, page in pages.items():
                tab = browser.new_context(permissions=["camera"]).new_page()
                with served(page) as address:
                    tab.goto(address)
                    tab.click("#camera")
                    tab.wait_for_timeout(SETTLING)
                    for _ in range(count):
                        tab.wait_for_timeout(READING)
                        for shown, value in _read(tab).items():
                            readings[name][shown].append(value)
                    tab.context.close()
    return readings


def _read(tab: Any) -> dict[str, float]:
    for _ in range(PATIENCE // READING):  # the first frames are slow to come
        if (rate := tab.inner_text("#rate")) != NO_RATE:
            break
        tab.wait_for_timeout(READING)
    else:
        raise ExportError(f"the page shows no frame: {tab.inner_text('body')}", code="no-frame")
    shown = {RATE: float(rate)}
    for cell in tab.locator("[data-part]").all():
        shown[cell.get_attribute("data-part")] = float(cell.inner_text().split()[0])
    return shown


if __name__ == "__main__":
    sys.exit(command(main))
