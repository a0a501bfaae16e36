"""`jaxdistill check-data`: its arguments, what it prints, and the sheet that it writes."""

from pathlib import Path

import coco_folders
import layouts
import pytest
from PIL import Image
from refused import refused

from jaxdistill.commands import check_data
from jaxdistill.runtime.errors import ConfigError, DataError, OutputError

PHOTOS = layouts.photos(6)


def run(root: Path, *arguments: str, output: str = "sheet.html") -> tuple[int, Path]:
    path = root.parent / output
    return check_data.main([str(root), "--output", str(path), *arguments]), path


def test_the_sheet_is_a_page_or_an_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "some <data>"
    layouts.faulty(root)
    code, page = run(root, "--samples", "3")
    assert code == 1
    printed = capsys.readouterr().out
    assert "mask_folder" in printed
    assert "2 images are in training and in validation" in printed
    text = page.read_text()
    assert text.count("<figure>") == 3 + 3 + 1 + 1 + 4 + 2
    assert "some &lt;data&gt;" in text
    assert "<data>" not in text
    code, image = run(root, output="sheet.png")
    assert code == 1
    with Image.open(image) as opened:
        assert min(opened.size) > 500


def test_data_without_faults_are_fine(tmp_path: Path) -> None:
    root = coco_folders.discs(tmp_path / "coco", train=3, validation=2)
    assert run(root)[0] == 0
    for name in ("train", "val"):
        layouts.mask_folder(tmp_path / "plain", PHOTOS[:2] if name == "val" else PHOTOS[2:], name)
    assert run(tmp_path / "plain", "data.source=image_folder", output="plain.html")[0] == 0
    text = (tmp_path / "plain.html").read_text()
    assert "How much" not in text


def test_a_split_without_a_usable_image_is_shown_too(tmp_path: Path) -> None:
    for name in ("train", "val"):
        layouts.mask_folder(tmp_path / "data", PHOTOS, name)
    for path in (tmp_path / "data").glob("**/masks/**/*.png"):
        with Image.open(path) as mask:
            half = mask.resize((mask.width // 2, mask.height // 2))
        half.save(path)
    code, page = run(tmp_path / "data")
    assert code == 1
    assert page.exists()


def test_a_configuration_names_the_data(tmp_path: Path) -> None:
    root = coco_folders.discs(tmp_path / "coco", train=3, validation=2)
    (tmp_path / "mine.yaml").write_text(f"extends: recommended\ndata: {{root: {root}}}\n")
    arguments = ["--config", str(tmp_path / "mine.yaml"), "--output", str(tmp_path / "a.html")]
    assert check_data.main(arguments) == 0


@pytest.mark.parametrize("name", ["a=b", "./a=b", "=", "sub/a.b=c/d=e"])
def test_a_folder_may_have_an_equals_sign_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    layouts.mask_folder(tmp_path / name, PHOTOS)
    monkeypatch.chdir(tmp_path)
    assert check_data.main([name, "data.source=mask_folder"]) == 0
    assert check_data.main([str(tmp_path / name)]) == 0


@pytest.mark.parametrize("annotations", [[], ["data.train.annotations=null"]])
def test_folders_of_images_can_be_named_alone(
    tmp_path: Path, annotations: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    layouts.mask_folder(tmp_path / "data", PHOTOS, "photos")
    arguments = ["data.source=image_folder", "data.train.images=photos", *annotations]
    assert run(tmp_path / "data", *arguments)[0] == 0
    assert "6 images of image_folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        ([], ConfigError, "missing-data-root"),
        (["data.rot=a"], ConfigError, "unknown-key"),
        (["a", "run=b"], ConfigError, "unknown-key"),
        (["a", f"data.{'x' * 5000}=0"], ConfigError, "unknown-key"),
        (["a", "data.workers=0"], ConfigError, "out-of-range"),
        (["a", "--samples", "0"], ConfigError, "command-line"),
        (["a", "b"], ConfigError, "command-line"),
        (["a", "./b=c"], ConfigError, "command-line"),
        (["no/such=folder"], DataError, "missing-images"),
        (["no=folder"], ConfigError, "unknown-key"),
        (["/nowhere/at/all"], DataError, "missing-images"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], kind: type, code: str) -> None:
    with refused(kind, code):
        check_data.main(arguments)


def test_a_sheet_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    layouts.mask_folder(tmp_path / "data", PHOTOS[:1])
    (tmp_path / "file").write_text("")
    with refused(OutputError, "cannot-write", "--output"):
        run(tmp_path / "data", output="file/sheet.html")
