"""Evaluate: a run's own numbers come back, an export's are the same, and each can be recounted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
from PIL import Image

from jaxdistill import config
from jaxdistill.checkpoint.manager import best
from jaxdistill.commands import evaluate, export, predict, train
from jaxdistill.data import image_ops
from jaxdistill.data.splits import open_split
from jaxdistill.runtime.errors import command

TEACHER = ["--gives", "logits", "--normalization", "unit"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a teacher, and a run of two epochs."""
    place = tmp_path_factory.mktemp("place")
    tiny_run.make(place)
    arguments = ["--config", str(tiny_run.SPECIFIED), *tiny_run.overrides(place)]
    train.main([*arguments, "--epochs=2"])
    return place


@pytest.fixture(scope="module")
def measured(place: Path) -> dict[str, Any]:
    evaluate.main([str(place / "run")])
    return result(place / "run/evaluation")


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())


def data(place: Path) -> list[str]:
    return [
        f"data.root={place}/coco",
        f"data.prepared={place}/prepared",
        "data.image_size=[64, 64]",
    ]


def test_a_run_s_validation_is_repeated(place: Path, measured: dict[str, Any]) -> None:
    recorded = best(place / "run").record["validation"]
    assert measured["pictures"] == 5
    assert measured["network"]["miou"] == pytest.approx(recorded["student_miou"], abs=1e-6)
    assert measured["teacher"]["miou"] == pytest.approx(recorded["teacher_miou"], abs=1e-6)
    assert measured["network"]["agreement"] == pytest.approx(recorded["agreement"], abs=1e-6)
    settings = config.load(place / "run/config.yaml")
    prints = measured["fingerprints"]
    assert prints["data"] == open_split(settings.data, "validation").fingerprint
    assert len({*prints.values()}) == 3


def test_means_are_those_of_the_pictures_and_bounds_hold(measured: dict[str, Any]) -> None:
    for role in ("network", "teacher"):
        each = [picture[role] for picture in measured["each"]]
        for name, mean in measured[role].items():
            assert 0 <= mean <= 1
            if name != "pooled_miou":
                assert mean == pytest.approx(np.mean([values[name] for values in each]), abs=1e-6)
        for values in each:  # as their definitions imply
            iou, dice = values["person_iou"], values["dice"]
            assert dice == pytest.approx(2 * iou / (1 + iou), abs=1e-6)
            assert iou <= min(values["precision"], values["recall"]) + 1e-6


def test_what_is_measured_of_a_file_can_be_recounted(place: Path, tmp_path: Path) -> None:
    """Of the teacher, whose mask is what is bright, in NumPy."""
    elsewhere = ["--split", "train", "training.batch_size=3", "--output", str(tmp_path)]
    evaluate.main([str(place / "network.onnx"), *data(place), *TEACHER, *elsewhere])
    found = result(tmp_path)
    assert found["teacher"] is None
    assert "agreement" not in found["network"]
    assert [one["name"] for one in found["each"]] == [f"{n}.png" for n in range(1, 9)]
    settings = config.load(place / "run/config.yaml", data(place))
    counts = np.zeros((2, 2))
    for one, example in zip(found["each"], open_split(settings.data, "train"), strict=True):
        image = image_ops.resize_image(example.image, (64, 64)) / 255
        mask = image_ops.resize_mask(example.mask, (64, 64)) > 0
        bright = image.mean(-1) * 10 - 5 > 0
        pairs = [(~bright, ~mask), (bright, mask)]
        areas = np.array([[(a & b).sum(), (a | b).sum()] for a, b in pairs])
        counts += areas
        background, person = areas[:, 0] / areas[:, 1]
        assert one["network"]["person_iou"] == pytest.approx(person, abs=1e-3)
        assert one["network"]["miou"] == pytest.approx((background + person) / 2, abs=1e-3)
        recall = (bright & mask).sum() / mask.sum()
        assert one["network"]["recall"] == pytest.approx(recall, abs=1e-3)
    pooled = (counts[:, 0] / counts[:, 1]).mean()
    assert found["network"]["pooled_miou"] == pytest.approx(pooled, abs=1e-3)


def test_the_worst_pictures_are_shown(place: Path, measured: dict[str, Any]) -> None:
    assert len(measured["each"]) == 5
    sheet = Image.open(place / "run/evaluation/worst.png")
    assert sheet.width > 4 * 64
    assert 5 * 64 < sheet.height < 6 * 75
    settings = config.load(place / "run/config.yaml")
    worst = min(measured["each"], key=lambda one: one["network"]["miou"])
    examples = open_split(settings.data, "validation")
    image = examples[examples.names.index(worst["name"])].image
    first = np.asarray(sheet.crop((0, 24, 64, 88)))
    assert np.array_equal(first, image_ops.resize_image(image, (64, 64)))


def test_a_table_is_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([str(place / "run")])
    printed = capsys.readouterr().out
    for title in evaluate.TITLES.values():
        assert title in printed
    assert "5 pictures" in printed
    assert str(place / "run/evaluation/worst.png") in printed.replace("\n", "")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="normalized"),
        pytest.param(["--input", "uint8", "--sigmoid"], id="bytes"),
        pytest.param(["--input", "unit", "--size", "64", "64"], id="unit", marks=pytest.mark.slow),
    ],
)
def test_an_export_is_worth_what_the_run_is_and_says_itself_how_to_use_it(
    place: Path, tmp_path: Path, measured: dict[str, Any], options: list[str]
) -> None:
    path = tmp_path / "student.onnx"
    export.main([str(place / "run"), str(path), *options, "--pictures", "2"])
    evaluate.main([str(path), *data(place)])
    exported = result(tmp_path / "student.evaluation")
    for name, value in exported["network"].items():
        assert value == pytest.approx(measured["network"][name], abs=2e-3), name

    photographs = str(place / "coco/images/val2017")
    for network in (place / "run", path):
        output = str(tmp_path / network.stem)
        assert predict.main([str(network), photographs, "--output", output, "--soft"]) == 0
    for file in (tmp_path / "run/masks").iterdir():
        one, other = (
            np.asarray(Image.open(tmp_path / name / "masks" / file.name)).astype(int)
            for name in ("run", "student")
        )
        assert one.std() > 1
        assert np.abs(one - other).max() <= 2


def test_a_teacher_that_is_gone_is_said_to_be(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["teacher.onnx=gone.onnx", "--output", str(tmp_path)]
    evaluate.main([str(place / "run"), *given])
    assert "no teacher: gone.onnx is not there" in capsys.readouterr().out
    assert result(tmp_path)["teacher"] is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{place}/network.onnx", *TEACHER], "give data.root=FOLDER, or --config FILE"),
        (["{place}/network.onnx", *TEACHER, "data.root=nowhere"], "nowhere/images/val2017"),
        (["{place}/network.onnx", *TEACHER, "data.root=x", "data.rot=y"], "did you mean 'root'"),
        (["{place}/network.onnx", "data.root={place}/coco"], "--gives logits"),
        (["{place}/network.onnx", "--config", "none.yaml"], "none.yaml"),
        (["{place}/none", "data.root={place}/coco"], "the folder of a run, or a file NAME.onnx"),
        (["{place}/coco"], "is not a run"),
        (["{place}/run", "--config", "{place}/run/config.yaml"], "are for ONNX files"),
        (["{place}/run", "--size", "64", "64"], "are for ONNX files"),
        (["{place}/run", "--gives", "logits"], "a run knows what it eats and gives"),
        (["{place}/run", "student.encoder=tf_efficientnet_b0"], "as it was trained"),
        (["{place}/run", "data.image_size=[60, 64]"], "multiples of 32"),
    ],
)
def test_bad_input_is_named_in_one_line(
    place: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(place=place) for argument in arguments]
    assert command(lambda: evaluate.main(filled)) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
