"""Data sets as other cameras would have taken them."""

import json
import shutil
from pathlib import Path

import camera_runs
import cameras
import coco_folders
import numpy as np
import pytest
import runs
from onnx_models import parse, save
from PIL import Image
from refused import refused
from safetensors.numpy import save_file

from jaxdistill import config, models
from jaxdistill.data import decode
from jaxdistill.data.sources.selection import sources_of
from jaxdistill.runtime.errors import ConfigError, RunError

TRAIN, VALIDATION = 5, 2


def bright(folder: Path) -> Path:
    """A teacher that takes what is bright for a person."""
    model = parse(
        """
        bright (float[N, 3, H, W] image) => (float[N, 1, H, W] mask)
        { mean = ReduceMean <axes = [1], keepdims = 1> (image)  mask = Identity (mean) }"""
    )
    return save(model, folder, "bright.onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("cameras")
    data = coco_folders.discs(folder / "coco", TRAIN, VALIDATION)
    teacher = f"{bright(folder)}:unit"
    cameras.main([str(folder / "made"), "--data", str(data), "--teacher", teacher, "--few", "2"])
    return data, folder / "made"


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("camera", cameras.CAMERAS)
def test_images_are_changed_and_masks_move_with_them(made, camera: str) -> None:
    data, folder = made
    [source] = sources_of(config.Data(root=data), "train")
    examples = [source.load(entry) for entry in source.entries()]
    assert len(list((folder / camera / "train" / "images").iterdir())) == TRAIN
    assert len(list((folder / camera / "val" / "masks").iterdir())) == VALIDATION
    for example in examples:
        name = Path(example.name).stem + ".png"
        before, mask = decode.decode(example.image), decode.decode_mask(example.mask)
        after = read(folder / camera / "train" / "images" / name)
        turn = np.rot90 if cameras.CAMERAS[camera].turned else np.asarray
        np.testing.assert_array_equal(read(folder / camera / "train" / "masks" / name), turn(mask))
        assert after.shape == turn(before).shape
        assert (after != turn(before)).any() == (camera != "turned")
        if camera == "infrared":
            assert (after == after[..., :1]).all()
        if "dark" in camera:
            assert after.mean() < 0.6 * before.mean()


def test_labels_are_the_teacher_s_of_the_unchanged_image(made) -> None:
    data, folder = made
    [source] = sources_of(config.Data(root=data), "train")
    for entry in source.entries():
        example = source.load(entry)
        wanted = decode.decode(example.image).mean(-1) > 127.5
        found = read(folder / "dark" / "train" / "labels" / f"{Path(example.name).stem}.png") > 127
        # The teacher sees the image at another size.
        assert (found == wanted).mean() > 0.9


def test_of_few_masks_the_others_are_labels(made) -> None:
    train = made[1] / "turned" / "train"
    kinds = []
    for path in sorted((train / "few").iterdir()):
        mask, true, label = (read(train / kind / path.name) for kind in ("few", "masks", "labels"))
        assert (mask == true).all() or (mask == label).all()
        kinds.append((mask == true).all())
    assert sum(kinds) == 2


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (["--teacher", "bright.onnx"], "teacher-normalization"),
        (["--few", "0"], "few-masks"),
        (["--few", str(TRAIN)], "few-masks"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, changed: list[str], code: str) -> None:
    data = coco_folders.discs(tmp_path / "coco", TRAIN, VALIDATION)
    given = [str(tmp_path / "made"), "--data", str(data)]
    teacher = [] if "--teacher" in changed else ["--teacher", f"{bright(tmp_path)}:unit"]
    with refused(ConfigError, code):
        cameras.main([*given, *teacher, *changed])
    assert not (tmp_path / "made").exists()


def test_a_folder_of_other_data_is_refused_and_left_as_it_is(made, tmp_path: Path) -> None:
    data, folder = made
    teacher = ["--teacher", f"{bright(tmp_path)}:unit"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    cameras.main([str(folder), "--data", str(data), *teacher, "--few", "2"])  # the same again
    other = coco_folders.discs(tmp_path / "coco", TRAIN - 1, VALIDATION)
    for root, few in ((data, "3"), (other, "2")):
        with refused(ConfigError, "folder-not-empty"):
            cameras.main([str(folder), "--data", str(root), *teacher, "--few", few])
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_what_was_interrupted_leaves_no_data_set(made, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(runs, "save", full)
    arguments = [str(tmp_path / "new"), "--data", str(made[0]), "--few", "2"]
    with pytest.raises(OSError, match="no space"):
        cameras.main([*arguments, "--teacher", f"{bright(tmp_path)}:unit"])
    assert [path.name for path in tmp_path.iterdir()] == ["bright.onnx"]


def test_what_is_written_is_a_data_set(made) -> None:
    root = made[1] / "infrared"
    split = {"images": "train/images", "annotations": "train/few"}
    settings = config.Data(root=root, source="mask_folder", train=split)
    [source] = sources_of(settings, "train")
    assert len(source.entries()) == TRAIN


def test_other_settings_in_a_folder_with_runs_are_refused(made, tmp_path, monkeypatch) -> None:
    def trained(run: Path, *_: object) -> None:
        run.mkdir(parents=True)
        scores = {"miou": 0.5, "boundary_iou": 0.25}
        (run / camera_runs.DONE).write_text(json.dumps({"trained": scores, "start": {}}))

    monkeypatch.setattr(camera_runs, "_train", trained)
    folder = shutil.copytree(made[1], tmp_path / "made")
    place = [str(tmp_path / "runs"), "--data", str(folder)]
    arguments = [*place, "--config", "configs/browser.yaml", "student.weights=null"]
    arguments += ["student.frozen=[]", "training.interpolate=null"]
    chosen = ["--cameras", "dark", "--labels", "masks", "--seeds", "0"]
    camera_runs.main([*arguments, *chosen])
    camera_runs.main([*arguments, f"data.prepared={tmp_path}", *chosen])
    for changed in ("training.learning_rate=1e-5", "training.ema=0.9"):
        with refused(ConfigError, "design-differs"):
            camera_runs.main([*arguments, changed, *chosen])
    runs.save(folder / cameras.MADE, {**runs.read(folder / cameras.MADE), "few": 3})
    with refused(ConfigError, "design-differs", "made.few"):
        camera_runs.main([*arguments, *chosen])


@pytest.mark.parametrize("other", [{"a": 1, "b": 3}, {"a": 1}, {"a": 1, "b": 2, "c": None}])
def test_a_design_with_another_value_or_name_is_refused(tmp_path: Path, other: dict) -> None:
    runs.check(tmp_path, {"a": 1, "b": 2})
    runs.write(tmp_path, {"a": 1, "b": 2})
    runs.check(tmp_path, {"b": 2, "a": 1})
    with refused(ConfigError, "design-differs"):
        runs.check(tmp_path, other)


def test_weights_count_by_their_content(tmp_path: Path) -> None:
    settings, found = config.load("configs/browser.yaml", []), []
    for name, value in (("one", 1), ("same", 1), ("other", 2)):
        path = tmp_path / f"{name}.safetensors"
        save_file({"scale": np.full(3, value, np.float32)}, path)
        student = settings.student.model_copy(update={"weights": path})
        found.append(runs.effective(settings.model_copy(update={"student": student})))
    assert found[0] == found[1]
    assert {key for key in found[0] if found[0][key] != found[2][key]} == {"student.weights"}


@pytest.mark.parametrize("text", ["{", "[1]", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / runs.DESIGN).write_text(text)
    with refused(RunError, "unreadable-result", runs.DESIGN):
        runs.read(tmp_path / runs.DESIGN)


@pytest.mark.slow
def test_what_training_brings_is_tabulated_and_runs_are_not_repeated(made, tmp_path: Path) -> None:
    weights = tmp_path / "start.safetensors"
    student = models.create("mediapipe-selfie", encoder="mediapipe-selfie", frozen=())
    models.save_weights(student, weights)
    common = [str(tmp_path / "runs"), "--data", str(made[1]), "--config", "configs/browser.yaml"]
    chosen = ["--cameras", "dark", "--labels", "masks", "few", "--seeds", "0", "1"]
    settings = [
        f"student.weights={weights}",
        f"data.prepared={tmp_path / 'prepared'}",
        "data.image_size=[32, 32]",
        "training.epochs=1",
        "training.batch_size=2",
    ]
    camera_runs.main([*common, *settings, *chosen])
    table = json.loads((tmp_path / "runs" / "table.json").read_text())
    assert set(table) == {"dark"}
    assert {column: set(seeds) for column, seeds in table["dark"].items()} == {
        camera_runs.START_COLUMN: {"0", "1"},
        "masks": {"0", "1"},
        "few": {"0", "1"},
    }
    starts = table["dark"][camera_runs.START_COLUMN]
    assert starts["0"] == starts["1"]
    before = (tmp_path / "runs" / "dark" / "few" / "0" / "metrics.jsonl").stat().st_mtime_ns
    camera_runs.main([*common, *settings, *chosen])
    assert json.loads((tmp_path / "runs" / "table.json").read_text()) == table
    assert (tmp_path / "runs" / "dark" / "few" / "0" / "metrics.jsonl").stat().st_mtime_ns == before
    camera_runs.main([*common, *settings, *chosen, "--interpolate", "0"])
    between = json.loads((tmp_path / "runs" / "table.json").read_text())
    assert between["dark"]["few"] == between["dark"]["masks"] == starts
    camera_runs.main([*common, *settings, *chosen])
    assert json.loads((tmp_path / "runs" / "table.json").read_text()) == table
