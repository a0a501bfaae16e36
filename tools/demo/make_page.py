#!/usr/bin/env python3
"""Makes a web page on which the demo's student runs on the demo's images.

    python tools/demo/make_page.py runs/demo build/demo

The page is the folder `page` in the second folder; if it exists, it stays. MediaPipe's selfie
segmentation runs beside the student if `npm install @mediapipe/selfie_segmentation` was run at the
top of this repository, and if the extra `litert`, which reads its file, is installed.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import jaxdistill as jd
from jaxdistill.commands import common
from jaxdistill.runtime.errors import ExportError, command

ROOT = Path(__file__).parents[2]
MEDIAPIPE = ROOT / "node_modules" / "@mediapipe" / "selfie_segmentation"
FILE = "selfie_segmentation.tflite"
SIZE = (256, 256)  # of its input


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and makes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path, help="the demo's folder, which has its images")
    parser.add_argument("--web-runtime", type=Path, help="see `jaxdistill export`")
    args = parser.parse_args(arguments)
    if (args.folder / "page" / "index.html").exists():
        print(f"{args.folder / 'page'} exists; to make it anew, delete it and run this again")
    else:
        make(args.run, args.folder, MEDIAPIPE / FILE, args.web_runtime, common.console())


def make(
    run: Path, folder: Path, mediapipe: Path, web_runtime: Path | None, console: Console
) -> None:
    """Writes the page.

    Args:
      run: The demo's run.
      folder: The demo's folder.
      mediapipe: MediaPipe's network. Where it does not exist, the student is alone.
      web_runtime: onnxruntime-web; None: it is downloaded.
      console: Where to print.
    """
    compared = _exported(mediapipe, folder / "mediapipe_selfie.onnx", console)
    images = jd.config.Data(root=folder / "coco").validation.images
    try:
        jd.export(
            run,
            folder / "page",
            examples=[folder / "coco" / str(images)],
            compare_with=compared,
            web_runtime=web_runtime,
            console=console,
        )
    except ExportError as error:
        if error.code not in ("web-runtime-missing", "web-runtime-differs"):
            raise
        console.print(f"no page: {error}")
        console.print(f"make it later: python tools/demo/make_page.py {run} {folder}")


def _exported(source: Path, output: Path, console: Console) -> Path | None:
    """Exports MediaPipe's network as the page takes it; returns None where it cannot be read."""
    if not source.is_file():
        console.print("the page has the student alone; see tools/demo/make_page.py --help")
        return None
    if importlib.util.find_spec("ai_edge_litert") is None:
        console.print(f"{source} is not used: install the extra litert, which reads it")
        return None
    from jaxdistill.litert_interop import mediapipe

    weights = output.with_suffix(".safetensors")
    mediapipe.convert(source, weights)
    jd.export(weights, output, size=SIZE, input="uint8")
    return output


if __name__ == "__main__":
    sys.exit(command(main))
