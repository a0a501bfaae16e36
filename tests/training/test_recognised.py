"""A run of which only the folder of its data is said."""

import io
from pathlib import Path

import layouts
import pytest
import tiny_run
from refused import refused
from rich.console import Console

from jaxdistill import config
from jaxdistill.commands import evaluate
from jaxdistill.data.layouts import recognise
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.training import Trainer

PHOTOS = layouts.photos()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_run.network(tmp_path / "network.onnx")
    return tmp_path


def test_a_run_finds_its_data_says_so_and_records_it(place: Path) -> None:
    for split in ("train", "val"):
        layouts.mask_folder(place / "coco", PHOTOS, f"images/{split}", f"masks/{split}")
    printed = io.StringIO()
    trainer = Trainer.from_config(tiny_run.load(place), Console(file=printed, width=1000))
    [note] = [line for line in printed.getvalue().splitlines() if "mask_folder" in line]
    assert note.startswith("data: ")
    recorded = trainer.settings.data
    assert (recorded.source, recorded.train.images) == ("mask_folder", Path("images/train"))
    assert recorded == trainer.data.settings
    assert len(trainer.data.train) == len(PHOTOS)


def test_losses_that_need_masks_are_refused_where_none_are_found(place: Path) -> None:
    for split in ("train", "val"):
        layouts.mask_folder(place / "coco", PHOTOS, split, f"../elsewhere/{split}")
    supervised = ["teacher=null", "losses.kl=0", "losses.mse=0", "detector=null", "features=[]"]
    settings = config.load(tiny_run.SPECIFIED, [*tiny_run.overrides(place)[:5], *supervised])
    with refused(ConfigError, "masks-needed", "data.root"):
        Trainer.from_config(settings, tiny_run.QUIET)


@pytest.mark.parametrize(
    ("more", "found"),
    [([], True), (["data.train.images=images/train"], False), (["data.source=coco"], False)],
)
def test_a_run_can_be_measured_on_data_of_another_layout(
    place: Path, more: list[str], found: bool
) -> None:
    """The folders of the run are kept where they exist, or where others are named."""
    for split in ("train", "val"):
        layouts.mask_folder(place / "masks", PHOTOS, f"images/{split}", f"masks/{split}")
    run = tiny_run.load(place)
    root = f"data.root={place / 'masks'}"
    own = config.Split(images=Path("mine/train"), annotations=Path("mine.json"))
    data = run.data.model_copy(update={"train": own, "root": place / "masks"})
    moved = evaluate._elsewhere(run.model_copy(update={"data": data}), [root, *more])
    assert (moved.data.train == own) != found
    if found:
        assert recognise(moved.data).settings.source == "mask_folder"
    (place / "masks/mine/train").mkdir(parents=True)
    (place / "masks/images/val2017").mkdir(parents=True)
    (place / "masks/mine.json").touch()
    assert run.data.validation.annotations is not None
    annotations = place / "masks" / run.data.validation.annotations
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.touch()
    kept = evaluate._elsewhere(run.model_copy(update={"data": data}), [root])
    assert kept.data.train == own
