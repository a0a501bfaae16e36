"""Export as a web page: a folder that a static server makes available to any browser.

The page finds people in photos and before the camera, on the device: onnxruntime-web runs the
student in WebAssembly. The page's own files lie in the folder `web` beside this module.
"""

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from jaxdistill.exporters import onnx as onnx_file
from jaxdistill.exporters import web_content, web_runtime
from jaxdistill.exporters.registry import EXPORTERS, FOLDER, Options, Report, Source
from jaxdistill.exporters.verified_files import usual_size
from jaxdistill.runtime.errors import ConfigError, OutputError, unwritable
from jaxdistill.runtime.files import write_atomic

STUDENT = "student.onnx"
"""Name of the student's file in the folder."""
COMPARED = "compared.onnx"
"""Name of the file that is shown beside it."""
CONTENT = "page.json"
"""Name of the list of networks and example images."""
_FIRST = "index.html"  # written last, so that a folder which has it is complete
_WEB = Path(__file__).parent / "web"
_NOTICE = """\
These files are {package}, as published on npm: https://www.npmjs.com/package/onnxruntime-web
`.mjs` is renamed to `.js`, because some servers do not know the former.

onnxruntime-web is free software under the MIT license:
https://github.com/microsoft/onnxruntime/blob/main/LICENSE
The libraries in it have licenses of their own:
https://github.com/microsoft/onnxruntime/blob/main/ThirdPartyNotices.txt

{license}"""


@EXPORTERS.register(FOLDER)
def export(source: Source, output: Path, options: Options) -> Report:
    """Writes the folder, completely or not at all.

    Its graph takes bytes of a fixed size, as a browser decodes images, and returns logits, which
    the page resizes to the size of the image before they become a mask, as `Predictor` does.

    Args:
      source: The student to export.
      output: The folder, which does not exist yet.
      options: Size, one precision, images, where onnxruntime-web is, and what else the page shows.
        The size is that of the run's images by default.

    Returns:
      The folder, and the measurements of its graph.

    Raises:
      ConfigError: The form of the graph is another one (`invalid-argument`).
      OutputError: The folder exists (`output-exists`), or cannot be written (`output-unwritable`).
      DataError: An example image is missing or cannot be decoded.
      ExportError: The graph differs from the student, onnxruntime-web is missing
        (`web-runtime-missing`) or not the published one (`web-runtime-differs`), or the network to
        compare with has another form (`not-for-a-page`).
    """
    _check(options)
    console = options.console or Console(quiet=True)
    console.print(
        f"{output}: the folder of a web page, because the name has no ending; for a file, choose "
        f"one such as {output.name}.onnx or {output.name}.tflite"
    )
    try:
        output.mkdir()
    except FileExistsError:
        raise OutputError(f"{output} exists; choose another name", code="output-exists") from None
    try:
        content = dict(_content(source, options))
        runtime = web_runtime.load(options.web_runtime, console)
        own = options._replace(input="uint8", size=options.size or usual_size(source))
        report = onnx_file.export(source, output / STUDENT, own)
        for name, data in (*content.items(), *_page(runtime)):
            (output / name).parent.mkdir(exist_ok=True)
            write_atomic(output / name, data)
    except OSError as error:
        shutil.rmtree(output, ignore_errors=True)
        raise unwritable(output, error) from None
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)  # this call created it
        raise
    console.print(
        f"{output}: a web page with {web_runtime.PACKAGE.name}. To see it, run\n"
        f"    python3 -m http.server --directory {shlex.quote(str(output))}\n"
        f"and open http://localhost:8000. Elsewhere, browsers want https:// for the camera."
    )
    return Report((output,), report.measured)


def _check(options: Options) -> None:
    """Checks that the options leave the graph the form that the page's script expects."""
    wrong = {
        "takes uint8; leave input (--input) out": options.input not in (None, "uint8"),
        "returns logits; leave sigmoid (--sigmoid) out": options.sigmoid,
        "has one precision; choose one (--precision)": len(options.precisions) != 1,
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise ConfigError(f"the graph of a web page {what}", code="invalid-argument")


def _content(source: Source, options: Options) -> Iterator[tuple[str, bytes]]:
    """Yields what only this page has, without the student, by the files' names in the folder."""
    own = source.best.settings.run.name if source.best else "student"
    networks = [{"name": own, "file": STUDENT}]
    if path := options.compare_with:
        network, card = web_content.exported_network(path)
        yield COMPARED, network
        yield COMPARED.replace(".onnx", ".json"), card
        networks.append({"name": path.name if path.stem == own else path.stem, "file": COMPARED})
    examples = []
    for number, image in enumerate(web_content.examples(options.examples), 1):
        examples.append(f"examples/{number:02}.jpg")
        yield examples[-1], image
    yield CONTENT, json.dumps({"networks": networks, "examples": examples}, indent=2).encode()


def _page(runtime: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yields the files of the page, without the student's, by their names in the folder."""
    for name, content in runtime.items():
        yield f"onnxruntime/{name.replace('.mjs', '.js')}", content
    license = (_WEB / "onnxruntime-license.txt").read_text("utf-8")
    notice = _NOTICE.format(package=web_runtime.PACKAGE.name, license=license)
    yield "onnxruntime/NOTICE.txt", notice.encode()
    own = sorted(path for path in _WEB.iterdir() if path.suffix in (".js", ".css"))
    for path in [*own, _WEB / _FIRST]:
        yield path.name, path.read_bytes()
