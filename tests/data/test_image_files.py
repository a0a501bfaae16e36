"""Files, folders and globs as a list of images with unique names."""

import os
import tempfile
from pathlib import Path

import pytest
from coco_folders import encode, pixels
from hypothesis import given
from hypothesis import strategies as st
from refused import refused

from jaxdistill.data.image_files import find_images, spread, unsupported_images
from jaxdistill.runtime.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(arguments: list[str], *outputs: Path) -> dict[str, str]:
    """Source to name, in order, both as text."""
    images = find_images(arguments, outputs)
    return {image.source.as_posix(): image.name.as_posix() for image in images}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_mirrored_and_files_without_an_image_suffix_are_left_out(place: Path) -> None:
    touch(place, "a/2.JPG", "a/1.png", "a/deep/1.webp", "a/notes.txt", "a/ä b [1].tif", "b/no.jpg")
    for argument in ("a", "./a/", "b/../a", str(place / "a")):
        assert list(found([argument]).values()) == [
            "1.png",
            "2.png",
            "ä b [1].png",
            "deep/1.png",
        ]


def test_files_of_one_name_in_two_folders_stay_apart(place: Path) -> None:
    touch(place, "x/a/1.jpg", "x/b/1.jpg")
    assert list(found(["x/a/1.jpg", "x/b/1.jpg"]).values()) == ["a/1.png", "b/1.png"]
    assert list(found(["x/a", "x/b/1.jpg"]).values()) == ["a/1.png", "b/1.png"]
    assert list(found(["x/b/1.jpg"]).values()) == ["1.png"]


def test_globs_are_expanded(place: Path) -> None:
    touch(place, "a/1.jpg", "a/2.png", "b/1.jpg", "b/c/3.jpg", "[1].jpg")
    assert list(found(["*/*.jpg"]).values()) == ["a/1.png", "b/1.png"]
    assert list(found(["b/**/*.jpg"]).values()) == ["1.png", "c/3.png"]
    assert list(found(["?"]).values()) == ["a/1.png", "a/2.png", "b/1.png", "b/c/3.png"]
    assert list(found(["[1].jpg"]).values()) == ["[1].png"]  # a file's own name goes first


def test_a_file_is_found_once_and_a_named_file_needs_no_suffix(place: Path) -> None:
    touch(place, "a/1.jpg", "a/scan")
    assert list(found(["a", "a/1.jpg", "a/scan", "a/*"]).values()) == ["1.png", "scan.png"]


def test_outputs_of_an_earlier_run_are_not_found(place: Path) -> None:
    touch(place, "a/1.jpg", "a/masks/1.png", "a/out/masks/deep/1.png")
    for output in (place / "a", place / "a/out"):
        masks = output / "masks"
        assert f"{masks}/1.png" not in found(["a"], masks)
        assert f"{place}/a/out/masks/deep/1.png" not in found(["a/**/*.png", "a"], place / "a/out")


def test_images_in_excluded_folders_are_not_found(place: Path) -> None:
    touch(place, "a/1.jpg", "a/found/overlays/1.png")
    outputs = [place / "a/found/masks"]
    assert len(find_images(["a"], outputs)) == 2
    [image] = find_images(["a"], outputs, [place / "a/found/overlays"])
    assert image.name == Path("1.png")


def test_images_of_other_endings_are_found_where_they_can_be_decoded(place: Path) -> None:
    touch(place, "a/1.jfif", "a/2.JPE", "a/3.mpo", "a/4.gif", "a/6.jp2", "a/7.psd", "a/8.txt")
    (place / "a/5.HEIC").write_bytes(encode(pixels(4, 4), "JPEG"))
    assert list(found(["a"]).values()) == ["1.png", "2.png", "3.png", "4.png", "5.png"]
    assert [path.name for path in unsupported_images(["a"], [])] == ["6.jp2", "7.psd"]
    assert unsupported_images(["a/1.jfif"], []) == []


@pytest.mark.parametrize("arguments", [["a"], ["a/*"], ["a/1.jpg", "a/2.DNG", "a/3.nef"]])
def test_the_preview_in_a_raw_file_is_no_image(place: Path, arguments: list[str]) -> None:
    touch(place, "a/1.jpg")
    for name in ("2.DNG", "3.nef"):
        (place / "a" / name).write_bytes(encode(pixels(4, 4), "TIFF"))
    assert list(found(arguments).values()) == ["1.png"]
    assert [path.name for path in unsupported_images(arguments, [])] == ["2.DNG", "3.nef"]
    with refused(DataError, "no-images", "2.DNG"):
        find_images(["a/2.DNG"], [])


def test_files_of_macos_are_passed_over(place: Path) -> None:
    touch(place, "a/1.jpg", "a/._1.jpg", "a/__MACOSX/a/2.jpg", "a/__MACOSX/._3.heic", "a/._4.jp2")
    for argument in ("a", "a/*.jpg", "a/**/*.jpg"):
        assert list(found([argument]).values()) == ["1.png"]
    assert unsupported_images(["a"], []) == []
    assert len(found(["a/._1.jpg"])) == 1  # its own name is taken at its word


def test_a_pipe_is_not_waited_for(place: Path) -> None:
    touch(place, "a/1.jpg")
    os.mkfifo(place / "a/pipe.heic")
    assert list(found(["a"]).values()) == ["1.png"]


def test_linked_folders_are_searched_once_and_circles_end(place: Path) -> None:
    touch(place, "a/1.jpg", "b/2.jpg")
    (place / "a/other").symlink_to(place / "b")
    (place / "b/back").symlink_to(place / "a")
    assert list(found(["a"]).values()) == ["1.png", "other/2.png"]


def test_an_invalid_glob_is_named(place: Path) -> None:
    touch(place, "a/1.jpg")
    with refused(DataError, "no-such-image", "a/**.jpg"):
        find_images(["a/**.jpg"], [])


def test_no_image_is_overwritten(place: Path) -> None:
    touch(place, "masks/1.png")
    with refused(DataError, "image-overwritten", "masks/1.png"):
        find_images(["masks"], [place / "masks"])


@pytest.mark.parametrize("arguments", [["nowhere.jpg"], ["a", "*.nothing"], ["a/1.jpg/x"]])
def test_a_missing_file_is_named(place: Path, arguments: list[str]) -> None:
    touch(place, "a/1.jpg")
    with refused(DataError, "no-such-image"):
        find_images(arguments, [])


def test_a_folder_without_an_image_is_named(place: Path) -> None:
    touch(place, "a/notes.txt")
    with refused(DataError, "no-images", ".jpg"):
        find_images(["a"], [])


def test_images_that_cannot_be_decoded_alone_are_named(place: Path) -> None:
    touch(place, "a/1.jp2", "a/2.heic")
    with refused(DataError, "no-images", "1.jp2 and 1 others"):
        find_images(["a"], [])


NAMES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "a/", "b/", "a/b/"]),
    st.sampled_from(["1", "2", "1.jpg", "1.png", ".hidden", "ö"]),
    st.sampled_from([".jpg", ".png", ".PNG"]),
)


@given(st.sets(NAMES, min_size=1))
def test_names_are_unique_and_mirror_the_folders(names: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        touch(Path(folder), *names)
        images = find_images([folder], [])
        assert len(images) == len(names)
        assert len({image.name for image in images}) == len(names)
        root = Path(folder).resolve()
        for image in images:
            assert image.name.parent == image.source.parent.relative_to(root)
            assert image.name.name.startswith(image.source.stem)


def test_a_pipe_is_not_read(place: Path) -> None:
    os.mkfifo(place / "pipe.jpg")
    [image] = find_images(["pipe.jpg"], [])
    with pytest.raises(OSError, match="not a file"):
        image.read()


@pytest.mark.parametrize(
    ("count", "taken"), [(0, []), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (10, [0, 2, 5, 7])]
)
def test_some_files_are_spread_over_all(count: int, taken: list[int]) -> None:
    assert spread(range(count), 4) == taken
