"""Folders of images without masks, alone and mixed with labelled ones."""

import io
import os
import shutil
from pathlib import Path

import coco_folders
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from refused import refused

from jaxdistill import config
from jaxdistill.data import builder, description, loader, splits
from jaxdistill.data.dataset import Dataset, _distinct
from jaxdistill.runtime.errors import DataError

PLAIN = config.Split(images="photos", annotations=None)
COCO = config.Split(
    images="coco/images/train2017",
    annotations="coco/annotations/instances_train2017_person_only_no_crowd.json",
)


def pixels(seed: int, height: int = 8, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def put(path: Path, image: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    kind = {".jpg": "JPEG", ".tif": "TIFF"}.get(path.suffix.lower(), path.suffix[1:].upper())
    Image.fromarray(image).save(file, kind, **options)
    path.write_bytes(file.getvalue())
    return path


def data(root: Path, split: config.Split = PLAIN, **more: object) -> config.Data:
    given = {"prepared": root / "prepared", "image_size": (32, 32), **more}
    return config.Data(root=root, train=split, validation=split, **given)


def opened(root: Path, **more: object) -> Dataset:
    return splits.open_split(data(root, **more), "train")


def test_all_images_below_are_found_in_order_whatever_their_names(tmp_path: Path) -> None:
    names = ["b.PNG", "ä ö [1].png", "été 2024/Bild 1.tif", "été 2024/deep/er/x.webp", "z/1.bmp"]
    for seed, name in enumerate(names):
        put(
            tmp_path / "photos" / name, pixels(seed), **{"lossless": True} if "webp" in name else {}
        )
    (tmp_path / "photos/notes.txt").write_text("not an image")
    (tmp_path / "photos/raw.nef").write_bytes(b"not decoded here")
    dataset = opened(tmp_path)
    [account] = dataset.accounts
    assert [(count.number, list(count.names)) for count in account.omissions] == [(1, ["raw.nef"])]
    assert list(dataset.names) == ["b.PNG", "ä ö [1].png", "z/1.bmp", *names[2:4]]
    assert dataset.ids.tolist() == [1, 2, 3, 4, 5]
    assert not dataset.labelled.any()
    for name, example in zip(dataset.names, dataset, strict=True):
        assert example.mask is None
        np.testing.assert_array_equal(example.image, pixels(names.index(name)))


def test_a_name_that_is_not_text_can_be_printed(tmp_path: Path) -> None:
    put(tmp_path / "photos/a.png", pixels(0))
    shutil.copy(tmp_path / "photos/a.png", os.fsencode(tmp_path / "photos") + b"/b\xff.png")
    assert list(opened(tmp_path).names) == ["a.png", "b\\xff.png"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_rotated_upright(tmp_path: Path, orientation: int) -> None:
    stored = np.kron(pixels(0, 2, 3), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    put(tmp_path / "photos/a.jpg", stored, exif=exif, quality=95)
    # The EXIF standard's orientations: transposed or not, rows and columns reversed.
    turned = stored.transpose(1, 0, 2) if orientation >= 5 else stored
    turned = turned[::-1] if orientation in (3, 4, 7, 8) else turned
    turned = turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned
    [example] = opened(tmp_path)
    assert example.image.shape == turned.shape
    assert np.abs(example.image.astype(int) - turned).mean() < 6


def test_rare_files_that_are_not_images_are_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(200):
        put(tmp_path / f"photos/{number:03}.png", pixels(number))
    whole = put(tmp_path / "photos/cut.jpg", pixels(0, 64, 64)).read_bytes()
    (tmp_path / "photos/cut.jpg").write_bytes(whole[:1500])
    (tmp_path / "photos/gone.jpg").symlink_to("nowhere.jpg")
    dataset = opened(tmp_path)
    assert len(dataset) == 200
    [message] = caplog.messages
    assert message.startswith("data.train: 2 images")
    assert "cut.jpg (" in message
    assert "gone.jpg (No such file" in message
    # Ids are places in the folder: a skipped image leaves a gap, and the others keep theirs.
    assert set(dataset.ids) == set(range(1, 201))


def test_many_files_that_are_not_images_stop_the_build(tmp_path: Path) -> None:
    for number in range(10):
        put(tmp_path / f"photos/{number}.png", pixels(number))
    (tmp_path / "photos/a.jpg").write_bytes(b"not an image")
    os.mkfifo(tmp_path / "photos/pipe.jpg")
    with refused(DataError, "too-many-undecodable-images", "a.jpg"):
        opened(tmp_path)


@pytest.mark.parametrize(("folder", "code"), [("none", "missing-images"), ("empty", "no-images")])
def test_a_folder_that_is_missing_or_empty_is_named(tmp_path: Path, folder: str, code: str) -> None:
    (tmp_path / "empty").mkdir()
    with refused(DataError, code, f"{tmp_path}/{folder}"):
        opened(tmp_path, split=config.Split(images=folder, annotations=None))


def test_a_data_set_is_built_once_and_again_when_the_images_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds also where it is kept among the images."""
    inside = {"prepared": tmp_path / "photos/prepared"}
    put(tmp_path / "photos/a.png", pixels(0))
    before = opened(tmp_path, **inside).fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(builder.ImageDatasetBuilder, "download_and_prepare", None)
        assert opened(tmp_path, **inside).fingerprint == before
    shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere/photos")
    assert opened(tmp_path / "elsewhere").fingerprint == before
    put(tmp_path / "photos/b.png", pixels(1))
    assert len(opened(tmp_path, **inside)) == 2
    put(tmp_path / "photos/b.png", pixels(2))
    np.testing.assert_array_equal(opened(tmp_path, **inside)[1].image, pixels(2))


def test_the_samples_of_a_run_among_the_images_are_none(tmp_path: Path) -> None:
    put(tmp_path / "a.png", pixels(0))
    everything = config.Split(images=Path(), annotations=None)
    before = opened(tmp_path, split=everything).fingerprint
    put(tmp_path / "runs/first/samples/epoch_0001.png", pixels(1))
    put(tmp_path / "runs/b.png", pixels(2))
    (tmp_path / "runs/first/checkpoints").mkdir()
    assert len(opened(tmp_path, split=everything)) == 3
    (tmp_path / "runs/first/config.yaml").touch()
    assert list(opened(tmp_path, split=everything).names) == ["a.png", "runs/b.png"]
    (tmp_path / "runs/b.png").unlink()
    assert opened(tmp_path, split=everything).fingerprint == before


def test_a_training_folder_with_validation_images_gives_a_warning(tmp_path: Path) -> None:
    def warned(train: str, validation: str, **more: object) -> bool:
        given = config.Data(
            root=tmp_path,
            train=config.Split(images=train, annotations=None),
            validation=config.Split(images=validation, annotations=None),
            **more,
        )
        return bool(list(description.warn_of_overlap(given)))

    assert warned("a", "a")
    assert warned("a", "a/b")
    assert not warned("a/b", "a")
    assert not warned("a", "ab")
    assert warned("a", "b", unlabelled=Path())
    (tmp_path / "link").symlink_to(tmp_path / "b")
    assert warned("link", "b")


@pytest.fixture
def mixed(tmp_path: Path) -> config.Data:
    """Eight images with masks and three without."""
    coco_folders.discs(tmp_path / "coco")
    for number in range(3):
        put(tmp_path / f"photos/{number}.png", pixels(number, 40, 30))
    return data(tmp_path, COCO, unlabelled=Path("photos"))


def test_images_with_and_without_masks_are_one_split(mixed: config.Data) -> None:
    dataset = splits.open_split(mixed, "train")
    assert dataset.ids.tolist() == list(range(1, 12))
    assert dataset.labelled.tolist() == [True] * 8 + [False] * 3
    assert [dataset.name_of(number) for number in (8, 9)] == ["8.png", "0.png"]
    assert [example.mask is not None for example in dataset] == dataset.labelled.tolist()
    np.testing.assert_array_equal(dataset[9].image, pixels(1, 40, 30))
    with pytest.raises(IndexError):
        dataset[11]
    assert not splits.open_split(mixed, "validation").labelled[8:].size


def test_the_fingerprint_of_a_mixture_is_of_both(mixed: config.Data) -> None:
    labelled = mixed.model_copy(update={"unlabelled": None})
    plain = data(mixed.root)
    found = {splits.open_split(each, "train").fingerprint for each in (mixed, labelled, plain)}
    put(mixed.root / "photos/2.png", pixels(7))
    found.add(splits.open_split(mixed, "train").fingerprint)
    assert len(found) == 4


def test_batches_tell_which_masks_are_known(mixed: config.Data) -> None:
    dataset = splits.open_split(mixed, "train")
    *_, last = loader.validation_batches(dataset, mixed, 6)
    assert last.ids.tolist() == [7, 8, 9, 10, 11, 0]
    assert last.labelled.tolist() == [1, 1, 0, 0, 0, 0]
    assert last.weights.tolist() == [1, 1, 1, 1, 1, 0]
    assert last.labelled.dtype == np.float32
    assert [mask.any() for mask in last.masks] == [True, True, False, False, False, False]


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, unique=True), st.integers(1, 20))
def test_ids_are_distinct_and_those_of_coco_are_kept(coco: list[int], more: int) -> None:
    parts = [np.asarray(coco), 1 + np.arange(more), 1 + np.arange(more)]
    ids = _distinct(parts).tolist()
    assert ids[: len(coco)] == coco
    assert len(set(ids)) == len(ids) == len(coco) + 2 * more
