"""The command `evaluate`: a run's own scores, those of its export, and a recount in NumPy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
from PIL import Image

from jaxdistill import config, evaluation
from jaxdistill.checkpoint.best import best
from jaxdistill.commands import evaluate, export, predict, train
from jaxdistill.data import image_ops
from jaxdistill.data.splits import Data, open_split
from jaxdistill.runtime.errors import ConfigError, OutputError, command

TEACHER = ["--output-kind", "logits", "--normalization", "unit"]


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
        "data.mask_resize=nearest",  # as the run, which is the specified one
    ]


def test_scores_are_printed_before_they_are_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()  # where a folder is to be made
    arguments = [str(place / "run"), "--output", str(tmp_path / "file"), "training.batch_size=auto"]
    with pytest.raises(OutputError):
        evaluate.main(arguments)
    assert "mIoU" in capsys.readouterr().out


def test_the_validation_of_a_run_is_reproduced(place: Path, measured: dict[str, Any]) -> None:
    recorded = best(place / "run").metadata["validation"]
    assert measured["images"] == 5
    assert measured["network"]["miou"] == pytest.approx(recorded["student_miou"], abs=1e-6)
    assert measured["teacher"]["miou"] == pytest.approx(recorded["teacher_miou"], abs=1e-6)
    assert measured["network"]["agreement"] == pytest.approx(recorded["agreement"], abs=1e-6)
    settings = config.load(place / "run/config.yaml")
    prints = measured["fingerprints"]
    assert prints["data"] == open_split(settings.data, "validation").fingerprint
    assert len({*prints.values()}) == 3


def test_means_are_those_of_the_images_and_bounds_hold(measured: dict[str, Any]) -> None:
    for role in ("network", "teacher"):
        each = [image[role] for image in measured["per_image"]]
        for name, mean in measured[role].items():
            assert 0 <= mean <= 1
            if name != "pooled_miou":
                assert mean == pytest.approx(np.mean([values[name] for values in each]), abs=1e-6)
        for values in each:  # as their definitions imply
            iou, dice = values["person_iou"], values["dice"]
            assert dice == pytest.approx(2 * iou / (1 + iou), abs=1e-6)
            assert iou <= min(values["precision"], values["recall"]) + 1e-6


def test_scores_of_an_onnx_file_equal_a_recount(place: Path, tmp_path: Path) -> None:
    """The file is the teacher, whose mask is the bright pixels; NumPy counts them again."""
    elsewhere = ["--split", "train", "training.batch_size=3", "--output", str(tmp_path)]
    evaluate.main([str(place / "network.onnx"), *data(place), *TEACHER, *elsewhere])
    found = result(tmp_path)
    assert found["teacher"] is None
    assert "agreement" not in found["network"]
    assert [one["name"] for one in found["per_image"]] == [f"{n}.png" for n in range(1, 9)]
    settings = config.load(place / "run/config.yaml", data(place))
    counts = np.zeros((2, 2))
    for one, example in zip(found["per_image"], open_split(settings.data, "train"), strict=True):
        image = image_ops.resize_image(example.image, (64, 64)) / 255
        mask = image_ops.resize_mask(example.mask, (64, 64), "nearest") > 0
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


def test_the_worst_images_are_drawn(place: Path, measured: dict[str, Any]) -> None:
    assert len(measured["per_image"]) == 5
    grid = Image.open(place / "run/evaluation/worst.png")
    assert grid.width > 4 * 64
    assert 5 * 64 < grid.height < 6 * 75
    settings = config.load(place / "run/config.yaml")
    worst = min(measured["per_image"], key=lambda one: one["network"]["miou"])
    examples = open_split(settings.data, "validation")
    image = examples[examples.names.index(worst["name"])].image
    first = np.asarray(grid.crop((0, 24, 64, 88)))
    assert np.array_equal(first, image_ops.resize_image(image, (64, 64)))


def test_scores_are_printed_as_a_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([str(place / "run")])
    printed = capsys.readouterr().out
    for title in evaluate.TITLES.values():
        assert title in printed
    assert "5 images" in printed
    assert str(place / "run/evaluation/worst.png") in printed.replace("\n", "")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--input", "uint8", "--sigmoid"], id="bytes"),
        pytest.param(["--input", "imagenet"], id="imagenet", marks=pytest.mark.slow),
        pytest.param([], id="normalized", marks=pytest.mark.slow),
        pytest.param(["--input", "unit", "--size", "64", "64"], id="unit", marks=pytest.mark.slow),
    ],
)
def test_an_export_scores_like_its_run_and_describes_itself(
    place: Path, tmp_path: Path, measured: dict[str, Any], options: list[str]
) -> None:
    path = tmp_path / "student.onnx"
    export.main([str(place / "run"), str(path), *options, "--images", "2"])
    # The size is that of the file, where no `data.image_size` is given.
    evaluate.main([str(path), *(each for each in data(place) if "image_size" not in each)])
    exported = result(tmp_path / "student.evaluation")
    assert exported["data"]["image_size"] == [64, 64]
    for name, value in exported["network"].items():
        assert value == pytest.approx(measured["network"][name], abs=2e-3), name

    images = str(place / "coco/images/val2017")
    for network in (place / "run", path):
        output = str(tmp_path / network.stem)
        assert predict.main([str(network), images, "--output", output, "--soft"]) == 0
    for file in (tmp_path / "run/masks").iterdir():
        one, other = (
            np.asarray(Image.open(tmp_path / name / "masks" / file.name)).astype(int)
            for name in ("run", "student")
        )
        assert one.std() > 1
        assert np.abs(one - other).max() <= 2


def test_the_python_api_gives_the_scores_of_the_command(
    place: Path, measured: dict[str, Any]
) -> None:
    settings = config.load(place / "run/config.yaml")
    data = Data(settings.data)
    found = best(place / "run")
    for model in (place / "run", found, found.student):
        result = evaluation.evaluate(model, data, batch_size=settings.training.batch_size)
        assert result.network["miou"] == pytest.approx(measured["network"]["miou"], abs=1e-6)
        assert result.per_image[0]["name"] == measured["per_image"][0]["name"]


@pytest.mark.parametrize("refine", [[], ["--refine", "guided"]])
def test_scores_at_the_images_own_size_are_those_of_the_masks_of_predict(
    place: Path, tmp_path: Path, measured: dict[str, Any], refine: list[str]
) -> None:
    evaluate.main([str(place / "run"), "--own-size", *refine, "--output", str(tmp_path)])
    found = result(tmp_path)
    assert (found["own_size"], found["refine"]) == (True, refine[-1] if refine else None)
    images = str(place / "coco/images/val2017")
    predict.main([str(place / "run"), images, "--output", str(tmp_path), *refine])
    settings = config.load(place / "run/config.yaml")
    for one, example in zip(
        found["per_image"], open_split(settings.data, "validation"), strict=True
    ):
        mask = example.mask > 127
        path = (tmp_path / "masks" / one["name"]).with_suffix(".png")
        drawn = np.asarray(Image.open(path)) > 127
        assert drawn.shape == mask.shape != (64, 64)
        iou = (drawn & mask).sum() / (drawn | mask).sum()
        assert one["network"]["person_iou"] == pytest.approx(iou, abs=1e-6)
        assert 0 <= one["teacher"]["boundary_iou"] <= 1
        assert 0 <= one["network"]["agreement"] <= 1
    assert found["network"]["miou"] == pytest.approx(measured["network"]["miou"], abs=0.1)
    assert Image.open(tmp_path / "worst.png").width > 4 * 64


def test_an_image_at_a_time_is_measured_without_a_warning(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="absl")  # which training silences
    one = ["--own-size", "training.batch_size=1", "--output", str(tmp_path)]
    evaluate.main([str(place / "network.onnx"), *data(place), *TEACHER, *one])
    assert not [message for message in caplog.messages if "prefetch_buffer_size" in message]


def test_a_size_that_does_not_fit_the_student_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluation.load(place / "run", size=(60, 64))
    assert caught.value.code == "image-size"
    image = np.zeros((30, 50, 3), np.uint8)
    assert evaluation.load(place / "run").predict(image).shape == (30, 50)


def test_a_missing_teacher_is_reported_and_left_out(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["teacher.onnx=gone.onnx", "--output", str(tmp_path)]
    evaluate.main([str(place / "run"), *given])
    assert "gone.onnx" in capsys.readouterr().out
    assert result(tmp_path)["teacher"] is None


def test_several_teachers_are_measured_as_one(
    place: Path, tmp_path: Path, measured: dict[str, Any]
) -> None:
    one = f"{{onnx: {place / 'network.onnx'}, normalization: unit}}"
    evaluate.main([str(place / "run"), f"teacher=[{one}, {one}]", "--output", str(tmp_path)])
    found = result(tmp_path)
    assert found["teacher"]["miou"] == pytest.approx(measured["teacher"]["miou"], abs=1e-6)
    assert {"teacher.0", "teacher.1"} <= found["fingerprints"].keys()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["{place}/network.onnx", *TEACHER], "missing-data-root"),
        (["{place}/network.onnx", *TEACHER, "data.root=nowhere"], "missing-images"),
        (["{place}/network.onnx", "data.root={place}/coco"], "unknown-output-kind"),
        (["{place}/none", "data.root={place}/coco"], "unknown-model-format"),
        (["{place}/coco"], "not-a-run"),
        (["{place}/run", "--config", "{place}/run/config.yaml"], "options-for-files"),
        (["{place}/run", "--size", "64", "64"], "options-for-files"),
        (["{place}/run", "--output-kind", "logits"], "options-for-files"),
        (["{place}/run", "--refine", "sharp"], "unknown-refinement"),
        (["{place}/run", "--video", "clip.mp4", "--own-size"], "options-for-files"),
        (["{place}/run", "--video", "clip.mp4", "--output", "{place}/out"], "options-for-files"),
        (["{place}/run", "student.encoder=tf_efficientnet_b0"], "student-differs"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    place: Path, arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(place=place) for argument in arguments]
    assert command(lambda: evaluate.main(filled)) == 2
    error = capsys.readouterr().err
    assert error.rstrip().endswith(f"[{code}]")
    assert error.count("\n") == 1
