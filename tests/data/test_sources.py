"""Data sources: how one is chosen, and a source from outside the package."""

from collections.abc import Sequence
from pathlib import Path

import coco_folders
import numpy as np
import pytest
from coco_folders import Folder, encode, pixels
from refused import refused

import jaxdistill.data
from jaxdistill import config
from jaxdistill.data import SOURCES, Source, SourceExample, decode, splits
from jaxdistill.data.sources import selection
from jaxdistill.runtime.errors import ConfigError, DataError


class Pairs(Source[Path]):
    """Images and masks as files of one name in two folders."""

    NAME = "pairs"
    HAS_MASKS = True
    LAYOUT = "a folder of images and a folder of masks"

    def list_images(self) -> Sequence[Path]:
        return sorted(self.images.glob("*.png"))

    def file(self, entry: Path) -> Path:
        return entry

    def load(self, entry: Path) -> SourceExample:
        assert self.annotations is not None
        mask = decode.decode_mask((self.annotations / entry.name).read_bytes())
        number = int(entry.stem)
        return SourceExample(
            number, entry.name, entry.read_bytes(), mask=decode.encode_mask(mask // 255)
        )


class Frames(Pairs):
    """A source without masks."""

    NAME = "frames"
    HAS_MASKS = False

    def load(self, entry: Path) -> SourceExample:
        return SourceExample(7, entry.name, entry.read_bytes())


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SOURCES, "_entries", dict(SOURCES._entries))
    SOURCES.register("pairs")(Pairs)
    SOURCES.register("frames")(Frames)


def settings(root: Path, source: str | None, annotations: str | None = "masks") -> config.Data:
    split = config.Split(images=Path("images"), annotations=annotations and Path(annotations))
    return config.Data(
        root=root, source=source, train=split, validation=split, prepared=root / "prepared"
    )


def masks_of(root: Path, count: int = 2) -> list[np.ndarray]:
    """Writes images and masks, and returns the masks."""
    masks = []
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for number in range(1, count + 1):
        mask = np.random.default_rng(number).integers(0, 2, (8, 12), np.uint8) * 255
        (root / f"images/{number}.png").write_bytes(encode(pixels(8, 12)))
        (root / f"masks/{number}.png").write_bytes(encode(mask))
        masks.append(mask)
    return masks


def test_a_source_from_outside_the_package_is_read_like_any_other(tmp_path: Path) -> None:
    masks = masks_of(tmp_path)
    dataset = splits.open_split(settings(tmp_path, "pairs"), "train")
    assert (dataset.ids.tolist(), dataset.names) == ([1, 2], ["1.png", "2.png"])
    assert dataset.labelled.all()
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(dataset[index].mask, mask)
        np.testing.assert_array_equal(dataset[index].image, pixels(8, 12))


def test_changed_masks_are_noticed(tmp_path: Path) -> None:
    masks_of(tmp_path)
    before = splits.open_split(settings(tmp_path, "pairs"), "train").fingerprint
    (tmp_path / "masks/1.png").write_bytes(encode(np.full((8, 12), 255, np.uint8)))
    dataset = splits.open_split(settings(tmp_path, "pairs"), "train")
    assert dataset.fingerprint != before
    assert dataset[0].mask is not None
    assert (dataset[0].mask == 255).all()


@pytest.mark.parametrize(
    ("source", "annotations", "expected"),
    [
        (None, "people.json", "coco"),
        (None, None, "image_folder"),
        ("coco", "people.json", "coco"),
        ("coco", None, "image_folder"),
        ("pairs", "masks", "pairs"),
        ("pairs", None, "image_folder"),
        ("frames", None, "frames"),
    ],
)
def test_the_source_of_a_split_follows_from_its_settings(
    tmp_path: Path, source: str | None, annotations: str | None, expected: str
) -> None:
    [found] = selection.sources_of(settings(tmp_path, source, annotations), "train")
    assert expected == found.NAME


def test_a_source_without_masks_takes_no_annotations(tmp_path: Path) -> None:
    with refused(ConfigError, "annotations-not-used", "data.train.annotations"):
        splits.open_split(settings(tmp_path, "frames"), "train")


def test_an_unknown_source_is_named_with_those_there_are(tmp_path: Path) -> None:
    with refused(ConfigError, "unknown-data-source", "image_folder"):
        splits.open_split(settings(tmp_path, "cocoo"), "train")


def test_missing_folders_are_named_with_the_expected_layout(tmp_path: Path) -> None:
    with refused(DataError, "missing-images", Pairs.LAYOUT):
        splits.open_split(settings(tmp_path, "pairs"), "train")
    (tmp_path / "images").mkdir()
    with refused(DataError, "missing-annotations", f"{tmp_path}/masks"):
        splits.open_split(settings(tmp_path, "pairs"), "train")


def test_a_missing_root_is_named() -> None:
    with refused(ConfigError, "missing-data-root", "data.root"):
        splits.open_split(config.Data(), "train")


def test_content_keys_stand_for_the_pixels(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for name, size in (("a.png", (8, 12)), ("b.png", (8, 13)), ("c.png", (8, 12))):
        folder.person(folder.image(name, size=size))
    first, second, third = folder.open().content_keys
    assert first == third != second
    assert len(first) == 32
    upright = SourceExample(1, "a.png", encode(pixels(8, 12)), upright=True)
    assert upright.content_key != first == upright._replace(upright=False, id=2).content_key


def test_the_public_api_names_the_sources(tmp_path: Path) -> None:
    assert {"coco", "image_folder"} <= set(jaxdistill.data.SOURCES)
    root = coco_folders.discs(tmp_path / "coco", train=2, validation=1)
    data = jaxdistill.data.coco(root, image_size=64, prepared=tmp_path / "prepared")
    assert len(data.train.content_keys) == len(data.train) == 2
