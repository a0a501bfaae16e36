"""Pseudo-labels: masks of images on which networks agree."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from PIL import Image
from refused import refused

from jaxdistill.commands import pseudo_label
from jaxdistill.data.image_files import find_images
from jaxdistill.evaluation import pseudo_labels
from jaxdistill.runtime.errors import ConfigError, OutputError
from jaxdistill.teachers.ensemble import Ensemble
from jaxdistill.types import TeacherOutputs

SIDE = 32


def bright(images):
    """A person is where an image is bright: logits from -10 to 10."""
    return TeacherOutputs(20 * images.mean(-1, keepdims=True) - 10)


def red(images):
    """A person is where an image is red."""
    return TeacherOutputs(20 * images[..., :1] - 10)


def left(images):
    """A person is in the left half of an image, whatever it shows."""
    columns = np.arange(images.shape[2])[None, None, :, None] < images.shape[2] // 2
    return TeacherOutputs(np.broadcast_to(np.where(columns, 10.0, -10.0), (*images.shape[:3], 1)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images: a white square, which both networks see; a green one; and a black image."""
    (tmp_path / "images/sub").mkdir(parents=True)
    square = np.zeros((48, 64, 3), np.uint8)
    for name, colour in ("white", (255, 255, 255)), ("sub/green", (0, 255, 255)), ("black", 0):
        image = square.copy()
        image[8:40, 8:40] = colour
        Image.fromarray(image).save(tmp_path / f"images/{name}.png")
    return tmp_path


def labelled(folder: Path, *networks, **options):
    teacher = Ensemble(networks) if len(networks) > 1 else networks[0]
    output = folder / "labels"
    images = find_images([str(folder / "images")], [output])
    options = {"size": (SIDE, SIDE), "agreement": 0.85, **options}
    found = pseudo_labels.pseudo_label(teacher, images, output, **options)
    return {each.mask: each for each in found}


def written(folder: Path) -> set[str]:
    masks = folder / "labels" / pseudo_labels.MASKS
    return {path.relative_to(masks).as_posix() for path in masks.rglob("*.png")}


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "labels" / pseudo_labels.REPORT).open()))


def test_masks_are_written_where_the_networks_agree(folder: Path):
    found = labelled(folder, bright, red, batch_size=2)
    assert {name: each.verdict for name, each in found.items()} == {
        "white.png.png": pseudo_labels.USED,
        "sub/green.png.png": pseudo_labels.DISAGREED,
        "black.png.png": pseudo_labels.NOBODY,
    }
    assert written(folder) == {"white.png.png"}
    mask = np.asarray(Image.open(folder / "labels/masks/white.png.png"))
    assert mask.shape == (48, 64)
    truth = np.zeros((48, 64), bool)
    truth[8:40, 8:40] = True
    assert ((mask > 127) & truth).sum() / ((mask > 127) | truth).sum() > 0.9
    assert {row["mask"]: float(row["agreement"]) for row in rows(folder)} == {
        name: each.agreement for name, each in found.items()
    }


def test_agreement_is_the_lowest_iou_with_the_mean():
    mean = np.zeros((2, 4, 4, 1), bool)
    mean[0, :2] = True
    half, same = mean.copy(), mean.copy()
    half[0, 1] = False
    assert pseudo_labels.agreements([same, half], mean).tolist() == [0.5, 1.0]


def test_one_network_has_to_agree_with_itself_on_the_mirror_image(folder: Path):
    assert labelled(folder, bright)["white.png.png"].agreement == 1.0


def test_a_network_that_ignores_the_image_disagrees_with_itself(folder: Path):
    assert {each.verdict for each in labelled(folder, left).values()} == {pseudo_labels.DISAGREED}


def test_an_interrupted_call_goes_on(folder: Path):
    def stop(found):
        if found:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        labelled(folder, bright, red, batch_size=1, progress=stop)
    calls = []

    def counted(images):
        calls.append(len(images))
        return red(images)

    with pytest.raises(KeyboardInterrupt):  # the images of the first call are reported first
        labelled(folder, bright, counted, progress=stop)
    assert not calls
    labelled(folder, bright, counted, batch_size=1)
    assert len(calls) == 2
    assert written(folder) == {"white.png.png"}
    assert len(rows(folder)) == 3


def test_masks_made_otherwise_are_not_mixed(folder: Path):
    labelled(folder, bright, red)
    with pytest.raises(ConfigError) as error:
        labelled(folder, bright, red, size=(SIDE, 2 * SIDE))
    assert error.value.code == "other-pseudo-labels"


def test_another_agreement_computes_only_the_masks_that_it_adds(folder: Path):
    calls = []

    def counted(images):
        calls.append(len(images))
        return red(images)

    labelled(folder, bright, bright, counted, batch_size=1)
    assert calls == [1, 1, 1]
    assert written(folder) == {"white.png.png"}
    labelled(folder, bright, bright, counted, batch_size=1, agreement=0.0)
    assert calls == [1, 1, 1, 1]
    assert written(folder) == {"sub/green.png.png", "white.png.png"}
    found = labelled(folder, bright, bright, counted, batch_size=1)
    assert found["sub/green.png.png"].verdict == pseudo_labels.DISAGREED
    assert written(folder) == {"white.png.png"}
    labelled(folder, bright, bright, counted, batch_size=1, agreement=0.0)  # it is put back
    assert written(folder) == {"sub/green.png.png", "white.png.png"}
    assert calls == [1, 1, 1, 1]


def test_another_agreement_holds_for_images_of_other_calls_too(folder: Path):
    labelled(folder, bright, bright, red, agreement=0.0)
    output = folder / "labels"
    white = [
        each
        for each in find_images([str(folder / "images")], [output])
        if each.name.stem == "white"
    ]
    options = {"size": (SIDE, SIDE), "agreement": 0.85}
    pseudo_labels.pseudo_label(Ensemble([bright, bright, red]), white, output, **options)
    assert written(folder) == {"white.png.png"}
    assert {row["mask"]: row["verdict"] for row in rows(folder)} == {
        "white.png.png": pseudo_labels.USED,
        "sub/green.png.png": pseudo_labels.DISAGREED,
        "black.png.png": pseudo_labels.NOBODY,
    }


def test_a_mask_of_the_user_s_own_stays(folder: Path):
    labelled(folder, bright, red)
    own = folder / "labels/masks/sub/green.png.png"
    own.parent.mkdir()
    own.write_bytes(b"drawn by hand")
    for agreement in 0.85, 0.95:
        labelled(folder, bright, red, agreement=agreement)
        assert own.read_bytes() == b"drawn by hand"


def test_the_report_begins_with_the_images_to_look_at(folder: Path):
    (folder / "images/broken.png").write_bytes(b"nothing")
    labelled(folder, bright, red)
    names = [row["mask"] for row in rows(folder)]
    assert names[:2] == ["broken.png.png", "sub/green.png.png"]


def test_an_image_that_cannot_be_read_is_reported_and_tried_again(folder: Path):
    broken = folder / "images/broken.png"
    broken.write_bytes(b"nothing")
    found = labelled(folder, bright, red)["broken.png.png"]
    assert found.agreement is None
    assert found.verdict not in (pseudo_labels.USED, pseudo_labels.DISAGREED)
    shutil.copy(folder / "images/white.png", broken)
    assert labelled(folder, bright, red)["broken.png.png"].verdict == pseudo_labels.USED
    assert written(folder) == {"broken.png.png", "white.png.png"}
    assert len(rows(folder)) == 4


def test_a_changed_image_is_labelled_again(folder: Path):
    labelled(folder, bright, red)
    shutil.copy(folder / "images/sub/green.png", folder / "images/white.png")
    assert labelled(folder, bright, red)["white.png.png"].verdict == pseudo_labels.DISAGREED
    assert written(folder) == set()


def test_a_mask_that_was_removed_is_written_again(folder: Path):
    labelled(folder, bright, red)
    shutil.rmtree(folder / "labels/masks")
    labelled(folder, bright, red)
    assert written(folder) == {"white.png.png"}


@pytest.mark.parametrize(
    "end", ["white.png.png,5", "white.png.png,1-2,1.0,us", "white.png.png,1-2,y,used", '"']
)
def test_a_report_that_was_cut_short_is_continued(folder: Path, end: str):
    labelled(folder, bright, red)
    report = folder / "labels" / pseudo_labels.REPORT
    lines = [line for line in report.read_text().splitlines() if "white" not in line]
    report.write_text("\n".join([*lines, end]))
    labelled(folder, bright, red)
    assert {row["mask"] for row in rows(folder)} == {
        "white.png.png",
        "sub/green.png.png",
        "black.png.png",
    }
    assert written(folder) == {"white.png.png"}


def test_a_name_that_is_not_utf_8_is_labelled(folder: Path):
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(folder / "images/white.png", folder / "images" / name)
    assert labelled(folder, bright, red)[f"{name}.png"].verdict == pseudo_labels.USED
    assert written(folder) == {f"{name}.png", "white.png.png"}
    assert len(labelled(folder, bright, red)) == 4


def test_masks_of_another_program_are_left_alone(folder: Path):
    mask = folder / "labels/masks/white.png"
    mask.parent.mkdir(parents=True)
    mask.write_bytes(b"a mask")
    with refused(ConfigError, "other-pseudo-labels", str(mask.parent)):
        labelled(folder, bright, red)
    assert mask.read_bytes() == b"a mask"


def test_a_mask_keeps_its_name_when_other_images_come_and_go(folder: Path):
    shutil.copy(folder / "images/white.png", folder / "images/white.jpg")
    labelled(folder, bright, red)
    assert written(folder) == {"white.png.png", "white.jpg.png"}
    (folder / "images/white.jpg").unlink()
    assert sorted(labelled(folder, bright, red)) == [
        "black.png.png",
        "sub/green.png.png",
        "white.png.png",
    ]


def test_masks_of_other_images_are_not_mixed(folder: Path):
    labelled(folder, bright, red)
    (folder / "images").rename(folder / "others")
    with refused(ConfigError, "other-pseudo-labels"):
        images = find_images([str(folder / "others")], [])
        teacher = Ensemble([bright, red])
        size = (SIDE, SIDE)
        pseudo_labels.pseudo_label(teacher, images, folder / "labels", size=size, agreement=0.85)


def test_a_damaged_folder_is_not_continued(folder: Path):
    labelled(folder, bright, red)
    (folder / "labels" / pseudo_labels.ABOUT).write_text("{")
    with refused(ConfigError, "other-pseudo-labels"):
        labelled(folder, bright, red)


def test_a_batch_has_at_least_one_image(folder: Path):
    with refused(ConfigError, "batch-size"):
        labelled(folder, bright, red, batch_size=0)


@pytest.mark.parametrize("agreement", [-0.1, 1.5, float("nan")])
def test_an_agreement_outside_its_range_is_refused(folder: Path, agreement: float):
    with pytest.raises(ConfigError) as error:
        labelled(folder, bright, red, agreement=agreement)
    assert error.value.code == "agreement"


def test_the_command_labels_with_the_teachers_of_a_configuration(tmp_path: Path, capsys):
    tiny_run.make(tmp_path)
    images, labels = tmp_path / "coco/images/train2017", tmp_path / "labels"
    Image.new("RGB", (80, 60)).save(images / "dark.png")
    shared = ["--config", str(tiny_run.SPECIFIED), *tiny_run.overrides(tmp_path)]
    arguments = [*shared, "--images", str(images), "--output", str(labels)]
    assert pseudo_label.main(arguments) == 0
    assert "8 of 9 images" in capsys.readouterr().err
    names = {path.name for path in images.iterdir()}
    assert {path.stem for path in (labels / "masks").iterdir()} == names - {"dark.png"}
    before = {path: path.stat().st_mtime_ns for path in (labels / "masks").iterdir()}
    assert pseudo_label.main(arguments) == 0  # nothing is left to do
    assert "8 of 9 images" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (labels / "masks").iterdir()}
    (images / "broken.png").write_bytes(b"nothing")
    assert pseudo_label.main(arguments) == 1
    with refused(ConfigError, "other-pseudo-labels", str(labels)):
        pseudo_label.main([*arguments, "teacher.size=[32, 32]"])
    with refused(ConfigError, "teacher-needed"):
        pseudo_label.main(["--config", "masks", *arguments[-4:]])


def test_a_folder_that_cannot_be_written_is_reported(folder: Path):
    (folder / "labels").write_text("a file")
    with pytest.raises(OutputError) as error:
        labelled(folder, bright, red)
    assert error.value.code == "output-unwritable"
