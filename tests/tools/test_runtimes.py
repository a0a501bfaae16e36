"""Every runtime computes what Flax does; what is missing or refuses a file is named.

The development environment has onnxruntime and OpenCV; tests/packaging/test_extras.py runs this
file where the others are too.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import runtime_engines
import runtimes
from onnx_models import save, segmenter
from PIL import Image
from refused import refused
from runtime_engines import RUNTIMES

from jaxdistill.runtime.errors import ConfigError, DataError

STUDENT = "masks student.encoder=mobilenetv3_small_050 student.decoder_channels=[16,12,8]"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(3):
        coarse = random.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((120, 90)).save(folder / f"{number}.png")
    return folder


def measure(folder: Path, output: Path, *arguments: str) -> dict:
    args = ["--images", str(folder), "--size", "64", "96", "--json", str(output)]
    runtimes.main([*arguments, *args])
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def found(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return measure(photos, tmp_path_factory.mktemp("found") / "found.json", STUDENT)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_computes_what_flax_computes(name: str, found: dict) -> None:
    [rows] = found["students"].values()
    if RUNTIMES[name].missing:
        assert found["missing"][name] == RUNTIMES[name].missing
        pytest.skip(f"needs {RUNTIMES[name].install}")
    if "tflite" in rows[name].get("refused", ""):
        pytest.skip("needs the extra tflite")
    # Measured: up to 2e-5 and all masks equal, here; for whole students on 40 photographs see
    # docs/performance.md.
    assert rows[name]["difference"] < 1e-4
    assert rows[name]["agreement"] > 0.999
    assert rows[name]["milliseconds"] > 0


def test_the_probabilities_are_of_both_classes(photos: Path) -> None:
    from runtime_students import contestants

    images = runtimes.read_images(str(photos), (64, 96), 40)
    [expected] = [each.expected for each in contestants(STUDENT, images, photos, set())]
    assert expected is not None
    assert 0.2 < (expected > 0.5).mean() < 0.8
    assert expected.std() > 0.1


def test_each_number_format_is_a_row(photos: Path, tmp_path: Path) -> None:
    """Measured for float16: 1.3e-3, and 99.95 % of the pixels; int8 needs a run's images."""
    arguments = (STUDENT, "--precision", "float16", "int8")
    found = measure(photos, tmp_path / "found.json", *arguments)
    half, eight = found["students"].values()
    assert 0 < half["onnxruntime"]["difference"] < 0.01
    assert half["onnxruntime"]["agreement"] > 0.995
    assert "refused" in eight["onnxruntime"]


def test_a_file_is_compared_with_the_first_runtime_and_refusals_are_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refusing(path: Path) -> runtime_engines.Engine:
        raise RuntimeError("no such operator\nat line 3")

    added = {
        "other": RUNTIMES["OpenCV DNN"]._replace(open=refusing),
        "absent": RUNTIMES["OpenCV DNN"]._replace(module="absent", install="pip install absent"),
    }
    for name in [name for name in RUNTIMES if name not in ("onnxruntime", "OpenCV DNN")]:
        monkeypatch.delitem(RUNTIMES, name)
    for name, runtime in added.items():
        monkeypatch.setitem(RUNTIMES, name, runtime)
    path = save(segmenter(1, 64, 96), tmp_path)
    found = measure(photos, tmp_path / "found.json", str(path))
    [rows] = found["students"].values()
    assert rows["onnxruntime"]["difference"] == 0
    assert rows["other"] == {"refused": "no such operator"}
    assert found["missing"] == {"absent": "pip install absent"}
    printed = capsys.readouterr().out
    assert "no such operator" in printed
    assert "absent is not installed: pip install absent" in printed


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--count", "0"], "invalid-argument"),
        (["--rounds", "0"], "invalid-argument"),
        (["--size", "0", "64"], "invalid-argument"),
        (["--size", "60", "64"], "image-size"),
    ],
)
def test_bad_arguments_are_refused(photos: Path, options: list[str], code: str) -> None:
    with refused(ConfigError, code):
        runtimes.main([STUDENT, "--images", str(photos), *options])


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with refused(DataError, "undecodable-image", "broken.png"):
        runtimes.read_images(str(tmp_path), (64, 96), 1)
