"""The data of a run from Python: `data.coco`, `data.image_folder`, and what both offer."""

import itertools
import subprocess
import sys
from pathlib import Path

import coco_folders
import numpy as np
import pytest
from PIL import Image
from refused import refused

from jaxdistill import config, data
from jaxdistill.data import loader
from jaxdistill.runtime.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coco_folders.discs(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(scope="module")
def people(root: Path) -> data.Data:
    return data.coco(root, image_size=(32, 64), prepared=root / "prepared", crop=0.5)


def test_a_coco_folder_has_two_splits(people: data.Data) -> None:
    assert (len(people.train), len(people.validation)) == (8, 5)
    assert people.train.labelled.all()
    assert people.image_size == (32, 64)
    assert people.augmentation == ("light", 0.5)
    assert people.steps_per_epoch(3) == 2


def test_the_arguments_are_those_of_a_configuration(root: Path, people: data.Data) -> None:
    settings = config.Data(
        root=root,
        source="coco",
        image_size=(32, 64),
        augment="light",
        crop=0.5,
        prepared=root / "prepared",
    )
    assert people.settings == settings
    same = data.from_config(settings)
    assert same.train.fingerprint == people.train.fingerprint


def test_batches_are_those_of_the_loader(people: data.Data) -> None:
    for args in ((2, 5), (2, 5, 3), (2, 5, 3, 1, 2)):
        ours, theirs = (
            people.train_batches(*args),
            loader.train_batches(people.train, people.settings, *args),
        )
        for one, other in zip(*(itertools.islice(each, 5) for each in (ours, theirs)), strict=True):
            for left, right in zip(one, other, strict=True):
                np.testing.assert_array_equal(left, right)
        ours.close()
        theirs.close()
    ids = [batch.ids.tolist() for batch in people.validation_batches(4)]
    assert ids == [[1, 2, 3, 4], [5, 0, 0, 0]]


def test_splits_may_be_given_as_folder_and_file(root: Path) -> None:
    annotations = "annotations/instances_val2017_person_only_no_crowd.json"
    chosen = data.coco(
        root,
        train=("images/val2017", annotations),
        validation={"images": "images/val2017", "annotations": annotations},
        unlabelled="images/train2017",
        prepared=root / "prepared",
    )
    assert chosen.train.labelled.tolist() == [True] * 5 + [False] * 8
    assert chosen.settings.image_size == (320, 320)


@pytest.mark.parametrize(("value", "given"), [(255, {}), (9, {"mask_values": 9})])
def test_additional_images_have_a_folder_of_masks_of_their_own(
    tmp_path: Path, value: int, given: dict[str, int]
) -> None:
    """What the values of the masks mean is said, or found out, for these alone."""
    size, root = (24, 32), tmp_path
    for folder, mask in (("own", 7), ("more", value)):
        (root / folder / "images").mkdir(parents=True)
        (root / folder / "masks").mkdir()
        pixels = np.zeros(size, np.uint8)
        pixels[:, 16:] = mask
        Image.new("RGB", size[::-1]).save(root / folder / "images/a.png")
        Image.fromarray(pixels).save(root / folder / "masks/a.png")
    Image.new("RGB", size[::-1]).save(root / "more/images/b.png")  # the networks disagreed
    chosen = data.open(
        root / "own",
        train=("images", "masks"),
        validation=("images", "masks"),
        source="mask_folder",
        mask_values=7,
        additional={"images": root / "more/images", "annotations": root / "more/masks", **given},
        prepared=root / "prepared",
    )
    assert len(chosen.train) == 2
    for example in chosen.train[0], chosen.train[1]:
        assert example.mask[:, 16:].all()
        assert not example.mask[:, :16].any()
    assert any("data.additional" in line for line in data.describe(chosen))


def test_a_folder_as_annotations_is_a_folder_of_masks(tmp_path: Path) -> None:
    """As pseudo-labels are, which lie elsewhere."""
    (tmp_path / "own").mkdir()
    masks = tmp_path / "labels/masks"
    masks.mkdir(parents=True)
    for number in range(20):
        Image.new("RGB", (32, 24)).save(tmp_path / f"own/{number}.jpg")
        mask = np.zeros((24, 32), np.uint8)
        mask[:, number:] = 255
        Image.fromarray(mask).save(masks / f"{number}.jpg.png")
    chosen = data.open(
        tmp_path / "own",
        train=(".", masks),
        validation="25%",
        prepared=tmp_path / "prepared",
    )
    assert 0 < len(chosen.validation) < len(chosen.train) == 20 - len(chosen.validation)
    for place in 0, 5:
        example, number = chosen.train[place], int(Path(chosen.train.names[place]).stem)
        assert example.mask[:, number:].all()
        assert not example.mask[:, :number].any()


def test_a_folder_as_annotations_that_holds_no_mask_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    Image.new("RGB", (32, 24)).save(tmp_path / "images/a.jpg")
    (tmp_path / "annotations/instances.json").write_text("{}")
    with refused(DataError, "no-images", "data.train.annotations"):
        pair = ("images", "annotations")
        len(data.open(tmp_path, train=pair, validation=pair, prepared=tmp_path / "p").train)


def test_missing_additional_masks_are_found_before_anything_is_read(root: Path) -> None:
    with refused(DataError, "missing-annotations", "data.additional"):
        data.coco(root, additional=("images/val2017", "none"))
    report = root / "agreement.csv"
    report.write_text("image\n")
    with refused(DataError, "missing-annotations", str(report)):
        data.coco(root, additional=("images/val2017", report))
    with refused(ConfigError, "wrong-type", "additional.annotations"):
        data.coco(root, additional=("images/val2017", None))


def test_folders_of_images_have_no_masks(root: Path) -> None:
    plain = data.image_folder(
        root / "images", train="train2017", validation="val2017", prepared=root / "prepared"
    )
    assert (len(plain.train), len(plain.validation)) == (8, 5)
    assert not plain.train.labelled.any()


def test_descriptions_count_images_and_warn_of_overlap(root: Path, people: data.Data) -> None:
    line, where = data.describe(people)
    assert "8" in line
    assert "5" in line
    assert str(people.settings.prepared) in where
    assert " kB" in where
    overlapping = data.image_folder(
        root / "images", train=".", validation="val2017", prepared=root / "prepared"
    )
    counts, _, warning = data.describe(overlapping)
    assert "13 without masks" in counts
    assert warning.startswith("warning: ")


def test_missing_folders_are_found_before_anything_is_read(tmp_path: Path) -> None:
    with refused(DataError, "unknown-layout", "data.train"):
        data.coco(tmp_path)
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "none", tmp_path / "file"):
        with refused(DataError, "missing-images", f"data.root: {root}"):
            data.coco(root)
    with refused(DataError, "missing-images", "data.validation"):
        (tmp_path / "train").mkdir()
        data.image_folder(tmp_path)
    (tmp_path / "1.jpg").write_text("")  # images in the root itself
    with refused(DataError, "missing-images", "data.train.images=. data.validation=10%"):
        data.image_folder(tmp_path)


@pytest.mark.parametrize(
    ("args", "code", "names"),
    [
        ({"image_size": 0}, "out-of-range", "image_size"),
        ({"augment": "strong"}, "unknown-value", "augment"),
        ({"crop": 2.0}, "out-of-range", "crop"),
        ({"train": {"image": "a"}}, "unknown-key", "images"),
    ],
)
def test_invalid_arguments_are_named(root: Path, args: dict, code: str, names: str) -> None:
    with refused(ConfigError, code, names):
        data.coco(root, **args)


def test_importing_the_package_loads_no_slow_library() -> None:
    program = """
import sys
import jaxdistill.data.augment, jaxdistill.data.splits, jaxdistill.data.iterable
from jaxdistill.data import coco, batches, SOURCES
loaded = {"grain", "tensorflow_datasets", "tensorflow", "torch"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = data.nothing
    assert "coco" in dir(data)
