"""The comparison of networks: scores against NumPy, and masks at odds with all networks."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx_models import parse, save
from PIL import Image
from refused import refused

torch = pytest.importorskip("torch", reason="needs the torch extra")

import compare  # noqa: E402

from jaxdistill import config, exporters  # noqa: E402
from jaxdistill.models import build  # noqa: E402
from jaxdistill.runtime.errors import ConfigError  # noqa: E402

SIDE, IMAGES, WRONG = 32, 4, 2


def network(folder: Path, name: str, factor: float) -> Path:
    """A network that takes what is brighter than a level for a person."""
    model = parse(
        f"""
        bright (float[N, 3, {SIDE}, {SIDE}] image) => (float[N, 1, {SIDE}, {SIDE}] mask)
        {{ mean = ReduceMean <axes = [1], keepdims = 1> (image)
           factor = Constant <value = float {{{factor}}}> ()
           mask = Mul (mean, factor) }}"""
    )
    return save(model, folder, name)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images with one bright square each; one mask is that of the background."""
    for split, count in {"train": 1, "val": IMAGES}.items():
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for index in range(count):
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[4 : 20 + index, 4:20] = 255
            image = np.repeat((mask * 0.6).astype(np.uint8)[..., None], 3, 2)
            if index == WRONG:
                mask = 255 - mask
            root = tmp_path / "data"
            Image.fromarray(image).save(root / "images" / split / f"{split}{index}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{split}{index}.png")
    return tmp_path / "data"


def blind_miou() -> float:
    """Nothing is found: the background's IoU is its share, the person's is 0."""
    shares = [1 - (16 + index) * 16 / SIDE**2 for index in range(IMAGES)]
    shares[WRONG] = 1 - shares[WRONG]
    return float(np.mean(shares) / 2)


def test_scores_and_suspects(data: Path, tmp_path: Path, capsys) -> None:
    files = {"good": network(tmp_path, "good.onnx", 1.0), "blind": network(tmp_path, "b.onnx", 0.1)}
    output = tmp_path / "found.json"
    networks = [f"{name}={file}:probabilities:unit" for name, file in files.items()]
    size = ["--size", str(SIDE), str(SIDE)]
    compare.main([*networks, "--data", str(data), *size, "--suspects", "1", "--json", str(output)])
    found = json.loads(output.read_text())
    assert set(found) == set(files)
    # 1 on three images; on the wrong one no pixel agrees.
    assert found["good"]["evaluations"][0]["network"]["miou"] == pytest.approx(3 / 4)
    assert found["blind"]["evaluations"][0]["network"]["miou"] == pytest.approx(blind_miou())
    assert found["good"]["bytes"] == files["good"].stat().st_size
    assert found["good"]["seconds"] > 0
    first, without = capsys.readouterr().out.split("Without")
    assert f"val{WRONG}" in first
    assert "| good | 0.7500 |" in first
    assert "| good | 1.0000 |" in without


def test_scores_of_several_files_are_mean_and_deviation(data: Path, tmp_path: Path, capsys) -> None:
    files = [network(tmp_path, "good.onnx", 1.0), network(tmp_path, "blind.onnx", 0.1)]
    both = f"both={files[0]},{files[1]}:probabilities:unit"
    compare.main([both, "--data", str(data), "--size", str(SIDE), str(SIDE)])
    mean, deviation = (0.75 + blind_miou()) / 2, (0.75 - blind_miou()) / 2**0.5
    assert f"| both | {mean:.4f} ± {deviation:.4f} |" in capsys.readouterr().out


def test_latency_in_litert(data: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("tensorflow", reason="needs the tflite extra")
    pytest.importorskip("ai_edge_litert", reason="needs the litert extra")
    student = build(config.Student(encoder="mediapipe-selfie", decoder="mediapipe-selfie"))
    for ending in (".onnx", ".tflite"):
        output = tmp_path / f"student{ending}"
        exporters.export(student, output, size=(SIDE, SIDE), input="unit", sigmoid=True)
    size, result = ["--size", str(SIDE), str(SIDE)], tmp_path / "found.json"
    arguments = ["--data", str(data), *size, "--litert", "--json", str(result)]
    compare.main([f"a={tmp_path / 'student.onnx'}", *arguments])
    assert "| ms, LiteRT |" in capsys.readouterr().out
    found = json.loads(result.read_text())["a"]
    assert found["litert_bytes"] == (tmp_path / "student.tflite").stat().st_size
    assert found["litert_seconds"] > 0


@pytest.mark.parametrize(
    ("networks", "code"),
    [
        (["a={}:logits:unit", "a={}:logits:half"], "invalid-argument"),
        (["a={}:logits:unit:nchw"], "invalid-argument"),
        (["a={}:logits:unknown"], "invalid-argument"),
        (["a={}:probs:unit"], "unknown-output-kind"),
        (["a={}:logits:unit", "--size", "0", "32"], "invalid-argument"),
    ],
)
def test_bad_arguments_are_refused(
    data: Path, tmp_path: Path, networks: list[str], code: str
) -> None:
    file = network(tmp_path, "a.onnx", 1.0)
    size = ["--size", str(SIDE), str(SIDE)]
    arguments = [each.format(file) for each in networks]
    with refused(ConfigError, code):
        compare.main(["--data", str(data), *size, *arguments])


def test_one_image_is_left_however_many_are_suspects(data: Path, tmp_path: Path, capsys) -> None:
    file = network(tmp_path, "a.onnx", 1.0)
    size = ["--size", str(SIDE), str(SIDE), "--suspects", "99"]
    compare.main([f"a={file}:probabilities:unit", "--data", str(data), *size])
    assert f"Without these {IMAGES - 1} images" in capsys.readouterr().out
