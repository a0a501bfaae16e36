"""Files, folders and globs as a list of pictures whose names do not clash."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.data.image_files import find
from jaxdistill.runtime.errors import UserError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(arguments: list[str], *outputs: Path) -> dict[str, str]:
    """Source to name, in order, both as text."""
    pictures = find(arguments, outputs)
    return {picture.source.as_posix(): picture.name.as_posix() for picture in pictures}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_mirrored_and_what_is_no_picture_by_name_is_left_out(place: Path) -> None:
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


def test_globs_are_opened_here_too(place: Path) -> None:
    touch(place, "a/1.jpg", "a/2.png", "b/1.jpg", "b/c/3.jpg", "[1].jpg")
    assert list(found(["*/*.jpg"]).values()) == ["a/1.png", "b/1.png"]
    assert list(found(["b/**/*.jpg"]).values()) == ["1.png", "c/3.png"]
    assert list(found(["?"]).values()) == ["a/1.png", "a/2.png", "b/1.png", "b/c/3.png"]
    assert list(found(["[1].jpg"]).values()) == ["[1].png"]  # a file's own name goes first


def test_a_file_is_taken_once_and_one_that_is_named_whatever_it_is_called(place: Path) -> None:
    touch(place, "a/1.jpg", "a/scan")
    assert list(found(["a", "a/1.jpg", "a/scan", "a/*"]).values()) == ["1.png", "scan.png"]


def test_an_earlier_run_s_output_is_not_taken_for_pictures(place: Path) -> None:
    touch(place, "a/1.jpg", "a/masks/1.png", "a/out/masks/deep/1.png")
    for output in (place / "a", place / "a/out"):
        masks = output / "masks"
        assert f"{masks}/1.png" not in found(["a"], masks)
        assert f"{place}/a/out/masks/deep/1.png" not in found(["a/**/*.png", "a"], place / "a/out")


def test_what_an_earlier_run_made_in_another_form_is_left_out(place: Path) -> None:
    touch(place, "a/1.jpg", "a/found/overlays/1.png")
    outputs = [place / "a/found/masks"]
    assert len(find(["a"], outputs)) == 2
    [picture] = find(["a"], outputs, [place / "a/found/overlays"])
    assert picture.name == Path("1.png")


def test_linked_folders_are_opened_once_and_circles_end(place: Path) -> None:
    touch(place, "a/1.jpg", "b/2.jpg")
    (place / "a/other").symlink_to(place / "b")
    (place / "b/back").symlink_to(place / "a")
    assert list(found(["a"]).values()) == ["1.png", "other/2.png"]


def test_what_is_no_glob_is_named(place: Path) -> None:
    touch(place, "a/1.jpg")
    with pytest.raises(UserError, match=r"a/\*\*\.jpg: no such file, and not a glob|none fits it"):
        find(["a/**.jpg"], [])


def test_no_picture_is_overwritten(place: Path) -> None:
    touch(place, "masks/1.png")
    with pytest.raises(UserError, match="would be overwritten"):
        find(["masks"], [place / "masks"])


@pytest.mark.parametrize("arguments", [["nowhere.jpg"], ["a", "*.nothing"], ["a/1.jpg/x"]])
def test_what_is_not_there_is_named(place: Path, arguments: list[str]) -> None:
    touch(place, "a/1.jpg")
    with pytest.raises(UserError, match=r"no file or folder has this name"):
        find(arguments, [])


def test_a_folder_without_a_picture_is_named(place: Path) -> None:
    touch(place, "a/notes.txt")
    with pytest.raises(UserError, match=r"no picture in a; .*\.jpg"):
        find(["a"], [])


NAMES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "a/", "b/", "a/b/"]),
    st.sampled_from(["1", "2", "1.jpg", "1.png", ".hidden", "ö"]),
    st.sampled_from([".jpg", ".png", ".PNG"]),
)


@given(st.sets(NAMES, min_size=1))
def test_names_are_unique_and_in_the_pictures_own_folders(names: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        touch(Path(folder), *names)
        pictures = find([folder], [])
        assert len(pictures) == len(names)
        assert len({picture.name for picture in pictures}) == len(names)
        root = Path(folder).resolve()
        for picture in pictures:
            assert picture.name.parent == picture.source.parent.relative_to(root)
            assert picture.name.name.startswith(picture.source.stem)


def test_what_is_no_file_is_not_read(place: Path) -> None:
    os.mkfifo(place / "pipe.jpg")
    [picture] = find(["pipe.jpg"], [])
    with pytest.raises(OSError, match="not a file"):
        picture.read()
