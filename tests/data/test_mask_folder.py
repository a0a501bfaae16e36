"""Folders of masks: which mask belongs to an image, and what a person is in it."""

from collections.abc import Callable
from pathlib import Path

import folder_data
import layouts
import numpy as np
import pytest
from coco_folders import encode
from folder_data import omissions
from hypothesis import given
from hypothesis import strategies as st
from layouts import Photo, put
from PIL import Image
from refused import refused

from jaxdistill import config
from jaxdistill.data import Dataset, accounting, decode, mask_values, splits
from jaxdistill.data.mask_values import MaskEncoding, UnknownValuesError
from jaxdistill.data.sources.mask_folder import NO_IMAGE, NO_MASK
from jaxdistill.runtime.errors import DataError

PHOTOS = layouts.photos()
VOC = np.zeros((256, 3), np.uint8)
VOC[[1, 15, 255]] = (128, 0, 0), (192, 128, 128), (224, 224, 192)


def settings(root: Path, masks: str = "masks", images: str = "images", **more) -> config.Data:
    split = config.Split(images=Path(images), annotations=Path(masks))
    return config.Data(
        root=root,
        source="mask_folder",
        train=split,
        validation=split,
        prepared=root / "prepared",
        **more,
    )


def opened(root: Path, *args, **more) -> Dataset:
    return splits.open_split(settings(root, *args, **more), "train")


def assert_same(dataset: Dataset, photos: list[Photo] = PHOTOS) -> None:
    assert list(dataset.names) == [photo.name for photo in photos]
    folder_data.assert_same(dataset, photos)


def palette(indices: np.ndarray, colours: np.ndarray = VOC) -> bytes:
    image = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
    image.putpalette(colours.reshape(-1).tolist())
    return encode(image)


@pytest.mark.parametrize(
    ("masks", "images", "ending"),
    [
        ("masks", "images", ".png"),
        ("masks", "images", "_mask.png"),
        ("masks", "images", "-seg.PNG"),
        ("masks", "images", ".png.png"),
        ("images/masks", "images", ".png"),
        ("both", "both", "_mask.png"),
    ],
)
def test_a_mask_has_the_name_of_its_image(tmp_path, masks, images, ending):
    photos = [*PHOTOS[:2], PHOTOS[2]._replace(name="a/b/3.png")]
    layouts.mask_folder(tmp_path, photos, images, masks, ending)
    dataset = opened(tmp_path, masks, images)
    assert_same(dataset, photos)
    assert list(accounting.describe(dataset)) == []


def test_what_has_no_partner_is_counted(tmp_path):
    layouts.mask_folder(tmp_path, PHOTOS)
    put(tmp_path / "images/a/1.png", PHOTOS[0].image)
    put(tmp_path / "masks/9.png", PHOTOS[0].image)
    put(tmp_path / "masks/b/1.png", PHOTOS[0].image)
    dataset = opened(tmp_path)
    assert_same(dataset)
    assert omissions(dataset) == {NO_MASK: 1, NO_IMAGE: 2}


@pytest.mark.parametrize("name", ["masks/1_mask.png", "masks/1.bmp", "images/1.bmp"])
def test_one_of_several_masks_or_images_is_not_guessed(tmp_path, name):
    layouts.mask_folder(tmp_path, PHOTOS, ending=".png" if "_" not in name else "_seg.png")
    put(tmp_path / name, PHOTOS[0].image)
    with refused(DataError, "ambiguous-mask", "1."):
        opened(tmp_path)


def test_full_names_tell_images_apart(tmp_path):
    layouts.mask_folder(tmp_path, PHOTOS, ending=".png.png")
    put(tmp_path / "images/1.jpg", PHOTOS[1].image)
    put(tmp_path / "masks/1.jpg.png", encode(PHOTOS[1].mask * np.uint8(255)))
    first, second, *_ = opened(tmp_path)
    np.testing.assert_array_equal(first.mask, PHOTOS[1].mask * 255)
    np.testing.assert_array_equal(second.mask, PHOTOS[0].mask * 255)


def test_folders_without_equal_names_are_refused(tmp_path):
    layouts.mask_folder(tmp_path, PHOTOS, ending="-x.png")
    with refused(DataError, "no-mask-pairs", "1-x.png"):
        opened(tmp_path)


def test_a_mask_of_another_size_is_refused(tmp_path):
    layouts.mask_folder(tmp_path, PHOTOS)
    put(tmp_path / "masks/2.png", encode(np.zeros((12, 16), np.uint8)))
    with refused(DataError, "image-size-differs", "2.png"):
        opened(tmp_path)


def test_a_damaged_mask_is_counted_as_its_image_is(tmp_path):
    photos = layouts.photos(101, 24, 32)
    layouts.mask_folder(tmp_path, photos)
    put(tmp_path / "masks/7.png", b"?")
    dataset = opened(tmp_path)
    assert omissions(dataset) == {accounting.UNDECODABLE: 1}
    put(tmp_path / "masks/8.png", b"?")
    with refused(DataError, "too-many-undecodable-images", "8.png"):
        opened(tmp_path)


@pytest.mark.parametrize("drawn_on", ["upright", "stored"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_mask_lies_on_the_image_as_people_see_it_or_as_it_is_stored(
    tmp_path, orientation, drawn_on
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = (32, 24) if (drawn_on, orientation) == ("upright", 6) else (24, 32)
    put(tmp_path / "images/1.jpg", encode(np.zeros((24, 32, 3), np.uint8), "JPEG", exif=exif))
    put(tmp_path / "masks/1.png", encode(np.full(size, 255, np.uint8)))
    [example] = opened(tmp_path)
    assert example.image.shape[:2] == example.mask.shape == size


# What a person is


def shaped(kind: Callable[[np.ndarray], bytes], root: Path) -> None:
    layouts.mask_folder(root, PHOTOS)
    for photo in PHOTOS:
        put(root / "masks" / photo.name, kind(photo.mask))


def rgb(mask: np.ndarray, colour: tuple[int, ...] = (192, 128, 128)) -> np.ndarray:
    return np.where(mask[..., None], np.uint8(colour), np.uint8(0))


def cutout(mask: np.ndarray) -> np.ndarray:
    return np.concatenate([rgb(mask, (10, 200, 3)), mask[..., None] * np.uint8(255)], -1)


def soft(mask: np.ndarray) -> np.ndarray:
    """Black and white with soft edges, as a JPEG has them."""
    levels = np.repeat(np.repeat(mask * np.uint8(255), 8, 0), 8, 1)
    return decode.decode_mask(encode(levels, "JPEG", quality=80))


@pytest.mark.parametrize(
    ("kind", "values", "noted"),
    [
        (lambda mask: encode(mask * np.uint8(255)), None, False),
        (lambda mask: encode(Image.fromarray(mask.astype(bool))), None, False),
        (lambda mask: encode(rgb(mask, (255, 255, 255))), None, False),
        (lambda mask: encode(mask.astype(np.uint16) * 65535), None, False),
        (lambda mask: encode(mask.astype(np.uint16) * 255), None, False),
        (lambda mask: palette(mask * 255, np.repeat(np.arange(256)[:, None], 3, 1)), None, False),
        (lambda mask: encode(mask), None, True),
        (lambda mask: encode(rgb(mask, (1, 1, 1))), None, True),
        (palette, None, True),
        (lambda mask: encode(cutout(mask)), None, True),
        (lambda mask: encode(mask * np.uint8(15)), 15, False),
        (lambda mask: encode(mask * np.uint8(15)), [3, 15], False),
        (lambda mask: palette(mask * 15), 15, False),
        (lambda mask: palette(mask * 15), "#c08080", False),
        (lambda mask: encode(rgb(mask)), ["#C08080", "#000001"], False),
        (lambda mask: encode(255 - mask * np.uint8(255)), 0, False),
        (lambda mask: encode(mask.astype(np.uint16) * 26001), 26001, False),
        (lambda mask: encode(cutout(mask)), "alpha", False),
        (lambda mask: encode(mask * np.uint8(200)), "white", False),
    ],
)
def test_a_person_is_what_the_values_say(tmp_path, kind, values, noted):
    shaped(kind, tmp_path)
    dataset = opened(tmp_path, mask_values=values)
    assert_same(dataset)
    assert len(dataset.accounts[0].notes) == noted
    assert len(list(accounting.describe(dataset))) == noted


@pytest.mark.parametrize(
    ("text", "values"),
    [("15", (15,)), ("[15, 16]", (15, 16)), ('["#c08080"]', ("#c08080",)), ("alpha", "alpha")],
)
def test_a_configuration_says_what_a_person_is(text, values):
    overrides = ["run=run", "data.root=people", f"data.mask_values={text}"]
    assert config.load("masks", overrides).data.mask_values == values


def test_soft_edges_are_cut_in_the_middle():
    masks = [decode.decode_stored(encode(soft(photo.mask))) for photo in PHOTOS]
    assert mask_values.find_out(masks) == MaskEncoding("white")
    found = mask_values.person(masks[0], MaskEncoding("white"))
    sharp = np.repeat(np.repeat(PHOTOS[0].mask, 8, 0), 8, 1)
    assert (found != sharp).mean() < 0.01


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (lambda mask: encode(mask * np.uint8(15)), "15 ("),
        (lambda mask: encode(np.where(mask, 15, 255).astype(np.uint8) * (mask + 1 > 0)), "15 ("),
        (lambda mask: palette(mask * 15), "palette indices 0 ("),
        (lambda mask: encode(rgb(mask)), "#c08080 ("),
        (lambda mask: encode(mask.astype(np.uint16) * 24001), "24001 ("),
        (lambda mask: encode(mask + np.uint16(256)), "257 ("),
        (lambda mask: encode(np.arange(768, dtype=np.uint16).reshape(24, 32) // 5), "others"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_refused_with_their_values(tmp_path, kind, shown):
    shaped(kind, tmp_path)
    with refused(DataError, "unknown-mask-values", shown) as raised:
        opened(tmp_path)
    assert "data.mask_values" in str(raised.value)


def test_small_people_beside_a_void_border_are_classes():
    mask = np.zeros((100, 100), np.uint8)
    mask[:3], mask[3:5] = 15, 255
    with pytest.raises(UnknownValuesError):
        mask_values.find_out([decode.Stored(mask)])


def test_masks_of_two_kinds_are_refused(tmp_path):
    layouts.mask_folder(tmp_path, PHOTOS, person=1)
    encoding = MaskEncoding("ones")
    with pytest.raises(UnknownValuesError):
        mask_values.person(decode.Stored(PHOTOS[0].mask * np.uint8(255)), encoding)
    with pytest.raises(UnknownValuesError):
        mask_values.person(decode.Stored(PHOTOS[0].mask), MaskEncoding("alpha"))
    put(tmp_path / "masks/1.png", encode(rgb(PHOTOS[0].mask)))
    with refused(DataError, "unknown-mask-values"):
        opened(tmp_path)


def test_black_masks_are_of_every_kind():
    black = decode.Stored(np.zeros((4, 4), np.uint8))
    indices = decode.decode_stored(palette(np.eye(4, dtype=np.uint8)))
    assert mask_values.find_out([black, indices]) == MaskEncoding("ones")
    assert mask_values.find_out([black]) == MaskEncoding("white")
    assert mask_values.find_out([]) == MaskEncoding("white")


@given(
    st.lists(st.sampled_from([0, 1, 2, 15, 100, 127, 128, 254, 255]), min_size=1, max_size=6),
    st.sampled_from(["L", "RGB", "RGBA", "LA", "P", "1"]),
)
def test_any_mask_is_read_or_refused(levels, mode):
    image = Image.fromarray(np.uint8([levels])).convert(mode)
    stored = decode.decode_stored(encode(image))
    try:
        encoding = mask_values.find_out([stored])
    except UnknownValuesError as error:
        assert str(error)
    else:
        assert mask_values.person(stored, encoding).shape == (1, len(levels))


def test_other_values_are_another_data_set(tmp_path):
    layouts.mask_folder(tmp_path, PHOTOS)
    whites, blacks = (opened(tmp_path, mask_values=value) for value in (255, 0))
    np.testing.assert_array_equal(whites[0].mask, 255 - blacks[0].mask)
