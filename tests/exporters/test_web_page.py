"""Export as a web page: the folder, its runtime, and what is refused. No network is needed."""

import base64
import hashlib
import io
import json
import re
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refused import refused
from rich.console import Console

from jaxdistill import exporters
from jaxdistill.commands import export as command_line
from jaxdistill.exporters import web_runtime
from jaxdistill.exporters.web_runtime import Package
from jaxdistill.models import Student
from jaxdistill.runtime.errors import (
    ConfigError,
    DataError,
    ExportError,
    OutputError,
    UserError,
)

QUIET = Console(quiet=True)
ORIENTATION, GPS = 0x0112, 0x8825
"""Tags of EXIF."""
FILES = {"dist/a.wasm": b"wasm" * 1000, "dist/b.min.mjs": b"export default 1;"}


def digest(content: bytes) -> str:
    return base64.b64encode(hashlib.sha512(content).digest()).decode()


@pytest.fixture
def tarball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package in the place of onnxruntime-web, and an empty home."""
    path = tmp_path / "web" / "runtime.tgz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {**FILES, "package.json": b"{}"}.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    content = path.read_bytes()
    sums = {name: digest(file) for name, file in FILES.items()}
    package = Package("runtime@1", "https://localhost/r.tgz", len(content), digest(content), sums)
    monkeypatch.setattr(web_runtime, "PACKAGE", package)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return path


def no_network(*_: Any, **__: Any) -> Any:
    raise urllib.error.URLError(OSError("Name or service not known"))


def test_a_run_becomes_a_page_that_needs_no_other_host(
    trained: Path, tmp_path: Path, tarball: Path
) -> None:
    command_line.main([str(trained), f"{tmp_path}/page/", "--web-runtime", str(tarball)])
    page = tmp_path / "page"
    files = {str(path.relative_to(page)) for path in page.rglob("*") if path.is_file()}
    assert files == {
        *("index.html", "style.css", "page.js", "page.json", "camera.js", "speed.js"),
        *("worker.js", "effects.js", "pixels.js"),
        *("student.onnx", "student.json"),
        *("onnxruntime/a.wasm", "onnxruntime/b.min.js", "onnxruntime/NOTICE.txt"),
    }
    assert json.loads((page / "page.json").read_text()) == {
        "networks": [{"name": "run", "file": "student.onnx"}],
        "examples": [],
    }
    card = json.loads((page / "student.json").read_text())
    assert (
        card["file"]["sha256"] == hashlib.sha256((page / "student.onnx").read_bytes()).hexdigest()
    )
    assert card["input"]["shape"] == ["batch", 64, 96, 3]
    assert card["input"]["dtype"] == "uint8"
    assert card["output"]["range"] == "logits"
    assert (page / "onnxruntime/a.wasm").read_bytes() == FILES["dist/a.wasm"]
    for path in page.iterdir():
        if path.suffix in (".html", ".css", ".js"):
            assert not re.findall(r"//[\w-]+\.[\w.-]+", path.read_text()), path


def test_examples_are_reduced_and_lose_where_they_were_taken(
    small: Student, tmp_path: Path, tarball: Path
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned by 90 degrees
    exif[GPS] = {1: "N"}
    (tmp_path / "photos").mkdir()
    for number in range(30):
        grey = Image.new("RGB", (2000, 1000), (8 * number,) * 3)
        grey.save(tmp_path / "photos" / f"{number:02}.jpg", exif=exif)
    page = tmp_path / "page"
    exporters.export(small, page, web_runtime=tarball, examples=[tmp_path / "photos"])
    names = json.loads((page / "page.json").read_text())["examples"]
    assert names == [f"examples/{number:02}.jpg" for number in range(1, 13)]
    levels = []
    for name in names:
        with Image.open(page / name) as image:
            assert image.size == (640, 1280)
            assert not image.getexif()
            levels.append(np.asarray(image).mean())
    np.testing.assert_allclose(levels, [8 * (each * 30 // 12) for each in range(12)], atol=1)


def test_an_example_that_is_no_image_is_named_before_the_work(
    small: Student, tmp_path: Path, tarball: Path
) -> None:
    (tmp_path / "a.jpg").write_text("no image")
    with refused(DataError, "no-such-image", "a.jpg"):
        exporters.export(small, tmp_path / "page", examples=[tmp_path / "a.jpg"])
    assert not (tmp_path / "page").exists()


def test_another_network_is_shown_beside_the_student(
    small: Student, tmp_path: Path, tarball: Path
) -> None:
    other, page = tmp_path / "other.onnx", tmp_path / "page"
    exporters.export(small, other, input="uint8", size=(32, 64))
    exporters.export(small, page, web_runtime=tarball, compare_with=other)
    assert json.loads((page / "page.json").read_text())["networks"] == [
        {"name": "student", "file": "student.onnx"},
        {"name": "other", "file": "compared.onnx"},
    ]
    assert (page / "compared.onnx").read_bytes() == other.read_bytes()
    assert json.loads((page / "compared.json").read_text())["input"]["shape"][1:] == [32, 64, 3]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"input": "uint8"}, "any multiples"),
        ({"input": "unit", "size": (32, 64)}, "float32"),
        ({"input": "uint8", "size": (32, 64), "sigmoid": True}, "probabilities"),
    ],
    ids=str,
)
def test_a_network_of_another_form_is_refused(
    small: Student, tmp_path: Path, tarball: Path, options: dict[str, Any], reason: str
) -> None:
    other = tmp_path / "other.onnx"
    exporters.export(small, other, **options)
    with refused(ExportError, "not-for-a-page", reason):
        exporters.export(small, tmp_path / "page", compare_with=other)
    assert not (tmp_path / "page").exists()


def test_a_network_without_its_card_is_refused(
    small: Student, tmp_path: Path, tarball: Path
) -> None:
    other = tmp_path / "other.onnx"
    with refused(ExportError, "not-for-a-page", "other.onnx"):
        exporters.export(small, tmp_path / "page", compare_with=other)
    exporters.export(small, other, input="uint8", size=(32, 64))
    tflite = tmp_path / "other.tflite"
    tflite.write_bytes(b"another format, which the card is not of")
    with refused(ExportError, "not-for-a-page", "other.tflite"):
        exporters.export(small, tmp_path / "page", compare_with=tflite)
    for content in ("[]", "{}", "text"):
        (tmp_path / "other.json").write_text(content)
        with refused(ExportError, "not-for-a-page", "other.onnx"):
            exporters.export(small, tmp_path / "page", compare_with=other)


@pytest.mark.parametrize("name", ["web_runtime", "examples", "compare_with"])
def test_options_of_a_page_are_refused_for_a_file(
    small: Student, tmp_path: Path, name: str
) -> None:
    value: Any = ["a.jpg"] if name == "examples" else "a"
    with refused(ConfigError, "invalid-argument", name):
        exporters.export(small, tmp_path / "student.onnx", **{name: value})


def test_the_page_names_files_that_it_has() -> None:
    folder = Path(exporters.__file__).parent / "web"
    runtime = {Path(name).name.replace(".mjs", ".js") for name in web_runtime.PACKAGE.files}
    named = set(re.findall(r'"onnxruntime/(.*?)"', (folder / "worker.js").read_text()))
    assert named == runtime
    for path in folder.glob("*.js"):
        for name in re.findall(r'(?:from|Worker\() ?"(?:\./)?(.*?)"', path.read_text()):
            assert (folder / name).is_file(), name
    page = (folder / "index.html").read_text()
    for name in set(re.findall(r'\$\("([\w-]+)"\)', (folder / "page.js").read_text())):
        assert f'id="{name}"' in page, name


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"input": "normalized"}, "invalid-argument"),
        ({"sigmoid": True}, "invalid-argument"),
        ({"precision": ("float32", "float16")}, "invalid-argument"),
        ({"size": (63, 64)}, "image-size"),
    ],
    ids=str,
)
def test_options_that_the_page_does_not_have_are_refused(
    small: Student, tmp_path: Path, tarball: Path, options: dict[str, Any], code: str
) -> None:
    with refused(ConfigError, code):
        exporters.export(small, tmp_path / "page", web_runtime=tarball, **options)
    assert not (tmp_path / "page").exists()


def test_what_exists_is_not_overwritten(small: Student, tmp_path: Path, tarball: Path) -> None:
    (tmp_path / "page").mkdir()
    for name in ("page", "page/"):
        with refused(OutputError, "output-exists"):  # before anything is downloaded
            exporters.export(small, f"{tmp_path}/{name}", web_runtime=None)


def test_a_name_without_an_ending_is_said_to_be_a_page_before_the_download(
    small: Student, tmp_path: Path, tarball: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with refused(ExportError, "web-runtime-missing"):
        exporters.export(small, tmp_path / "student", console=Console(soft_wrap=True))
    first, second = capsys.readouterr().out.splitlines()
    assert "student.onnx" in first
    assert "downloading" in second
    assert not (tmp_path / "student").exists()


def test_nothing_is_left_of_a_page_whose_graph_is_refused(
    small: Student, tmp_path: Path, tarball: Path
) -> None:
    with refused(ExportError, "int8-needs-images"):
        exporters.export(small, tmp_path / "page", web_runtime=tarball, precision="int8")
    assert not (tmp_path / "page").exists()


def test_the_runtime_is_downloaded_once(tarball: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tarball.read_bytes()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(content))
    first = web_runtime.load(None, QUIET)
    assert first == {Path(name).name: file for name, file in FILES.items()}
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    assert web_runtime.load(None, QUIET) == first
    [kept] = Path("~/.cache/jaxdistill").expanduser().rglob("a.wasm")
    kept.write_bytes(b"damaged")
    with refused(ExportError, "web-runtime-missing"):
        web_runtime.load(None, QUIET)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(content))
    assert web_runtime.load(None, QUIET) == first
    assert kept.read_bytes() == FILES["dist/a.wasm"]


def test_a_home_that_cannot_be_written_costs_only_the_cache(
    tarball: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file")
    content = tarball.read_bytes()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(content))
    assert web_runtime.load(None, QUIET)["a.wasm"] == FILES["dist/a.wasm"]


def test_an_unpacked_package_is_taken(tarball: Path, tmp_path: Path) -> None:
    with tarfile.open(tarball) as archive:
        archive.extractall(tmp_path, filter="data")
    found = web_runtime.load(tmp_path / "package", QUIET)
    assert found == web_runtime.load(tarball, QUIET)
    (tmp_path / "package/dist/a.wasm").write_bytes(b"another version")
    with refused(ExportError, "web-runtime-differs", "a.wasm"):
        web_runtime.load(tmp_path / "package", QUIET)
    (tmp_path / "package/dist/a.wasm").unlink()
    with refused(ExportError, "web-runtime-missing", "a.wasm"):
        web_runtime.load(tmp_path / "package", QUIET)


@pytest.mark.parametrize("change", ["one byte", "truncated", "longer", "empty"])
def test_another_package_is_refused(
    tarball: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tarball.read_bytes()
    content = {
        "one byte": content[:-1] + bytes([content[-1] ^ 1]),
        "truncated": content[:-10],
        "longer": content + b" ",
        "empty": b"",
    }[change]
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(content))
    tarball.write_bytes(content)
    for source in (tarball, None):
        with refused(ExportError, "web-runtime-differs"):
            web_runtime.load(source, QUIET)
    assert not Path("~/.cache").expanduser().exists()


def test_a_missing_runtime_is_one_line(tarball: Path, tmp_path: Path) -> None:
    for source in (None, tmp_path / "absent.tgz", tmp_path):
        with pytest.raises(UserError) as caught:
            web_runtime.load(source, QUIET)
        assert caught.value.code == "web-runtime-missing"
        assert "npm pack runtime@1" in str(caught.value)
