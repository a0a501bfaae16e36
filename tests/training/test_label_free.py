"""Runs on images without masks, alone and mixed with labelled ones."""

import json
from pathlib import Path

import pytest
import tiny_run
from PIL import Image
from refused import refused

from jaxdistill import config
from jaxdistill.checkpoint.best import best
from jaxdistill.commands import cache_targets, evaluate, export, pseudo_label
from jaxdistill.commands.train import main
from jaxdistill.exporters.verify import MAX_CHANGED
from jaxdistill.reporting.html.report_data import read
from jaxdistill.runtime.errors import DataError, RunError
from jaxdistill.training.aggregation import OF_MASKS

SHIPPED = tiny_run.ROOT / "configs/label_free.yaml"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    tiny_run.make(place)
    return place


def arguments(place: Path, *more: str) -> list[str]:
    """Returns arguments of a run with masks, a teacher and a detector."""
    return ["--config", str(tiny_run.SPECIFIED), *tiny_run.overrides(place), *more]


def shipped(place: Path, *more: str) -> list[str]:
    """Returns arguments of the shipped label-free configuration, shrunk."""
    needless = ("detector", "features", "data.root")
    shrunk = [o for o in tiny_run.overrides(place) if not o.startswith(needless)]
    folders = ["data.train.images=train2017", "data.validation.images=val2017"]
    root = f"data.root={place}/coco/images"
    return ["--config", str(SHIPPED), *shrunk, root, *folders, "data.augment=flip", *more]


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def label_free(place: Path) -> Path:
    main(shipped(place, f"run={place}/label_free"))
    return place / "label_free"


def test_a_student_learns_from_the_teacher_alone(label_free: Path) -> None:
    first, *_, last = lines(label_free)
    for line in (first, last):
        for part in ("train", "validation"):
            assert not OF_MASKS & line[part].keys()
            assert {"kl", "mse", "total"} < line[part].keys()
    assert last["train"]["total"] < 0.7 * first["train"]["total"]
    assert last["validation"]["agreement"] > 0.95
    assert last["validation"]["agreement"] > first["validation"]["agreement"]


def test_a_label_free_run_leaves_everything(label_free: Path) -> None:
    best_agreement = max(line["validation"]["agreement"] for line in lines(label_free))
    assert best(label_free).metadata["validation"]["agreement"] == best_agreement
    data = json.loads((label_free / "provenance.json").read_text())["Data"]
    assert (data["training images"], data["training images without masks"]) == (8, 8)
    assert (data["validation images"], data["validation images without masks"]) == (5, 5)
    assert read(label_free).score.name == "agreement"
    assert f"{best_agreement:.4f}" in (label_free / "report.html").read_text()
    sheet = Image.open(label_free / "samples/epoch_001.png")
    assert 4 * 64 < sheet.width < 5 * 64  # image, teacher, student, difference
    assert sheet.height > 4 * 64


def test_a_label_free_run_is_evaluated_by_agreement(
    label_free: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([str(label_free), "--output", str(tmp_path)])
    found = json.loads((tmp_path / "evaluation.json").read_text())
    recorded = best(label_free).metadata["validation"]["agreement"]
    assert found["network"] == {"agreement": pytest.approx(recorded, abs=1e-6)}
    assert (found["images"], found["without_masks"], found["teacher"]) == (5, 5, {})
    each = [one["network"]["agreement"] for one in found["per_image"]]
    assert sum(each) / 5 == pytest.approx(recorded, abs=1e-6)
    assert 4 * 64 < Image.open(tmp_path / "worst.png").width < 5 * 64
    printed = capsys.readouterr().out
    assert "agreement with the teacher" in printed
    assert "mIoU" not in printed
    with refused(DataError, "nothing-to-compare"):
        evaluate.main([str(label_free), "teacher.onnx=gone.onnx"])


def test_a_label_free_run_is_evaluated_on_masks_where_there_are_some(
    place: Path, label_free: Path, tmp_path: Path
) -> None:
    annotations = config.Data.model_fields["validation"].default.annotations
    there = f"data.validation.annotations={place}/coco/{annotations}"
    given = [there, "--output", str(tmp_path)]
    evaluate.main([str(label_free), *given])
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["network"]["miou"] > 0.8  # it was trained without masks
    assert found["teacher"]["miou"] > 0.95


def test_a_label_free_run_is_exported_to_int8(label_free: Path, tmp_path: Path) -> None:
    precisions = ["float32", "int8"]
    export.main([str(label_free), str(tmp_path / "s.onnx"), "--precision", *precisions])
    card = json.loads((tmp_path / "s.int8.json").read_text())
    assert card["measured"]["mean_iou"] is None
    assert card["measured"]["changed"] <= MAX_CHANGED


def test_a_dry_run_names_the_losses_that_are_not_used(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(shipped(place, f"run={tmp_path}/run", "losses.bce=1", "losses.dice=1", "--dry-run"))
    printed = capsys.readouterr().out
    assert "8 training images (8 without masks), 5 validation images (5 without" in printed
    for name in ("bce", "dice"):
        assert f"loss {name} is not used: the training images have no masks" in printed
    assert "loss kl trains decoder, head" in printed
    assert "loss bce trains" not in printed
    assert " masks 4 x" not in printed


def test_labelled_and_unlabelled_images_are_trained_on_together(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All teacher outputs are precomputed: 13 training images, each with its mirror image."""
    run, cache = tmp_path / "run", tmp_path / "cache"
    mixed = ["data.unlabelled=images/val2017", "data.augment=flip", f"targets.cache={cache}"]
    cache_targets.main(arguments(place, *mixed, f"run={run}"))
    assert "train: 26 images, counting flipped ones; 26 to compute" in capsys.readouterr().out
    main(arguments(place, *mixed, f"run={run}"))
    printed = capsys.readouterr().out
    assert "data: 13 training images (5 without masks), 5 validation images\n" in printed
    assert "loss bce trains decoder, head" in printed
    first, *_, last = lines(run)
    assert last["cache"]["computed"] == 0
    for part in ("train", "validation"):
        assert {"bce", "dice"} < last[part].keys()
    assert last["train"]["bce"] < first["train"]["bce"]
    assert last["validation"]["student_miou"] > 0.85

    evaluate.main([str(run), "--split", "train", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert (found["images"], found["without_masks"]) == (13, 5)
    assert [set(one["network"]) > {"agreement", "miou"} for one in found["per_image"]] == [
        True for _ in range(8)
    ] + [False for _ in range(5)]
    labelled = [one["network"]["miou"] for one in found["per_image"] if "miou" in one["network"]]
    assert found["network"]["miou"] == pytest.approx(sum(labelled) / 8, abs=1e-6)


def test_pseudo_labels_are_trained_on_like_masks_of_one_s_own(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = place / "coco/images/train2017", tmp_path / "labels"
    given = ["--images", str(images), "--output", str(labels)]
    pseudo_label.main([*arguments(place), *given])
    alone = [
        "data.train.images=images/val2017",
        f"data.train.annotations={config.Data.model_fields['validation'].default.annotations}",
        f"data.additional={{images: {images}, annotations: {labels}/masks}}",
        "data.repeat=2",
        *("teacher=null", "losses.kl=0", "losses.mse=0"),
        f"run={tmp_path}/run",
    ]
    main(arguments(place, *alone))
    printed = capsys.readouterr().out
    assert "data: 13 training images (an epoch has the 5 of data.train 2 times)" in printed
    *_, last = lines(tmp_path / "run")
    data = json.loads((tmp_path / "run/provenance.json").read_text())["Data"]
    assert (data["repeats of data.train"], data["steps per epoch"]) == (2, (2 * 5 + 8) // 4)
    assert last["validation"]["student_miou"] > 0.85
    main(arguments(place, *alone, "--resume", f"training.epochs={tiny_run.EPOCHS + 1}"))
    with refused(RunError, "changed-settings", "data.repeat"):
        main(arguments(place, *alone, "--resume", "data.repeat=3"))


def test_additional_masks_are_learned_where_the_own_images_have_none(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = config.Data.model_fields["validation"].default.annotations
    images = f"{place}/coco/images/val2017"
    more = f"data.additional={{images: {images}, annotations: {place}/coco/{masks}}}"
    own = ["data.train.annotations=null", "losses.dice=1", f"run={tmp_path}/run"]
    main(arguments(place, more, *own, "--dry-run"))
    printed = capsys.readouterr().out
    assert "13 training images (8 without masks)" in printed
    assert "loss dice trains decoder, head" in printed
