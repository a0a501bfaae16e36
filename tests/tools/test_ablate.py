"""The ablation: its regimes, its table, and that it continues where it was stopped."""

import json
from pathlib import Path

import ablate
import ablation_data
import ablation_table
import pytest
import runs
import tiny_run
from refused import refused

from jaxdistill import config
from jaxdistill.data import Dataset, splits
from jaxdistill.runtime.errors import ConfigError, DataError, NetworkError

UNTRAINED = ["student.encoder_weights=null"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_run.make(tmp_path)
    return tmp_path


def dataset(place: Path, settings: list[str]) -> Dataset:
    loaded = config.load(tiny_run.SPECIFIED, [*tiny_run.overrides(place), *settings])
    return splits.open_split(loaded.data, "train")


def test_each_regime_has_all_images_and_its_own_masks(place: Path) -> None:
    regimes = ablation_data.prepare(place / "data", place / "coco", few=2)
    masks = {name: dataset(place, settings).labelled for name, settings in regimes.items()}
    assert {name: (len(has), int(has.sum())) for name, has in masks.items()} == {
        "all": (8, 8),
        "few": (8, 2),
        "few-repeated": (8, 8),  # two, four times
        "none": (8, 0),
    }


def test_the_table_pairs_by_seed_and_shows_the_spread(tmp_path: Path) -> None:
    scores = {"masks": {"0": 0.80, "1": 0.90}, "logits": {"0": 0.83, "1": 0.91, "2": 0.5}}
    for row, seeds in scores.items():
        for seed, miou in seeds.items():
            run = tmp_path / "all" / row / seed
            run.mkdir(parents=True)
            values = {**dict.fromkeys(ablation_table.MEASURES, 0.7), "teacher_miou": 0.95}
            text = json.dumps({**values, "student_miou": miou})
            (run / ablation_table.DONE).write_text(text)
    ablation_table.write(tmp_path, ablate.rows("near", "deep"))
    for run in tmp_path.glob("all/masks/*/*"):
        run.unlink()  # `table.json` remembers
    ablation_table.write(tmp_path, ablate.rows("near", "deep"))
    text = (tmp_path / "table.md").read_text()
    assert "**all masks** (teacher: mIoU 0.9500)" in text
    assert "| no distillation (BCE + Dice) | 2 | 0.8500 ± 0.0707 |" in text
    [line] = [line for line in text.splitlines() if line.startswith("| logits (+ KL) | 3 |")]
    assert line.endswith("| +0.0200 ± 0.0141 |")  # of the two seeds that both rows have


def test_every_row_is_a_configuration(place: Path) -> None:
    for name, row in ablate.rows("inner", "inner").items():
        network = [f"{part}.onnx={place}/network.onnx" for part in ("teacher", "detector")]
        settings = config.load(ablate.CONFIG, [*network, *row.settings])
        assert (settings.losses.feature > 0) == bool(settings.features), name


def test_another_design_needs_another_folder(place: Path) -> None:
    args = [f"{place}/runs", "--data", f"{place}/coco", "--teacher", f"{place}/network.onnx"]
    args += ["--feature", "inner", "--deep", "inner", "--seeds", "0", *UNTRAINED]
    ablate.main([*args, "--few", "2"])
    ablate.main([*args, "--few", "2", "--rows", "masks"])
    for other in (["--few", "3"], ["--few", "2", "training.epochs=3"]):
        with pytest.raises(ConfigError) as caught:
            ablate.main([*args, *other])
        assert caught.value.code == "design-differs"


def table(folder: Path, design: dict | None, row: str = "masks") -> Path:
    """Writes a table of one run, as the documents publish it."""
    scores = {**dict.fromkeys(ablation_table.MEASURES, 0.7), "teacher_miou": 0.95}
    content = {"all": {row: {"0": scores}}, **({"design": design} if design else {})}
    folder.mkdir(parents=True)
    (folder / ablation_table.TABLE).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("design", "code"),
    [
        (None, "unknown-design"),
        ({"data.mask_resize": "nearest"}, "design-differs"),
        ({"data.mask_resize": "area"}, None),
    ],
)
def test_a_table_alone_is_gone_on_from_by_its_own_design(
    place: Path, design: dict | None, code: str | None
) -> None:
    folder = table(place / "runs", design)
    args = [str(folder), "--data", f"{place}/coco", "--teacher", f"{place}/network.onnx"]
    args += ["--feature", "inner", "--deep", "inner", "--few", "2", "--seeds", "0", *UNTRAINED]
    if code:
        with refused(ConfigError, code):
            ablate.main(args)
        assert not (folder / runs.DESIGN).exists()
        return
    ablate.main(args)
    ablate.main(args)
    assert runs.read(folder / ablation_table.TABLE)["design"] == design
    (folder / ablation_table.TABLE).unlink()
    ablate.main(args)
    assert runs.read(folder / ablation_table.TABLE)["design"] == runs.read(folder / runs.DESIGN)


@pytest.mark.parametrize("name", ["distillation.json", "distillation_24.json"])
def test_published_tables_say_how_their_masks_were_resized(name: str) -> None:
    found = runs.read(tiny_run.ROOT / "docs" / name)
    assert found["design"]["data.mask_resize"] == "nearest"
    known = runs.effective(config.load(ablate.CONFIG, UNTRAINED))
    assert {key for key in found["design"] if not key.startswith("--")} <= known.keys()


def test_rows_of_another_version_are_kept(tmp_path: Path) -> None:
    folder = table(tmp_path / "runs", None, row="of another version")
    ablation_table.write(folder, ablate.rows("near", "deep"))
    assert "of another version" in runs.read(folder / ablation_table.TABLE)["all"]
    assert "| of another version | 1 |" in (folder / "table.md").read_text()


def test_what_a_row_was_made_with_stands_beside_its_scores(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(_: str, run: Path, settings: object) -> dict[str, float]:
        run.mkdir(parents=True)
        return {**dict.fromkeys(ablation_table.MEASURES, 0.7), "teacher_miou": 0.95}

    monkeypatch.setattr(runs, "train", trained)
    args = [f"{place}/runs", "--data", f"{place}/coco", "--teacher", f"{place}/network.onnx"]
    args += ["--feature", "inner", "--deep", "inner", "--few", "2", *UNTRAINED]
    args += ["--regimes", "all", "--rows", "logits", "--seeds"]
    ablate.main([*args, "1"])
    found = runs.read(place / "runs" / ablation_table.TABLE)["all"]["logits"]["0"]
    assert found["settings"] == list(ablate.LOGITS)
    changed = {"logits": ablate.Row("logits", ("losses.kl=2.0",))}
    monkeypatch.setattr(ablate, "rows", lambda near, deep: changed)
    with refused(ConfigError, "design-differs", "losses.kl=2.0"):
        ablate.main([*args, "2"])


def test_images_change_sides_with_another_choice(place: Path) -> None:
    """A command that failed before its first run is repeated with other arguments."""
    for few in (2, 4):
        regimes = ablation_data.prepare(place / "data", place / "coco", few)
    masks = dataset(place, regimes["few"]).labelled
    assert (len(masks), int(masks.sum())) == (8, 4)
    moved = (place / "coco").rename(place / "moved")
    ablation_data.prepare(place / "data", moved, 4)
    assert all(link.exists() for link in (place / "data" / "all").iterdir())


def test_a_mistake_does_not_bind_the_folder(place: Path) -> None:
    def run(folder: str, data: str, feature: str, *more: str) -> None:
        args = [f"{place}/{folder}", "--data", f"{place}/{data}", "--few", "2", "--rows", "logits"]
        networks = ["--teacher", f"{place}/network.onnx", "--feature", feature, "--deep", "inner"]
        ablate.main([*args, *networks, *UNTRAINED, *more])

    for error, code, mistake in (
        (DataError, "missing-annotations", ("coc", "inner")),
        (NetworkError, "onnx-unknown-tensor", ("coco", "iner")),
        (ConfigError, "unknown-key", ("coco", "inner", "training.epoch=1")),
    ):
        with pytest.raises(error) as caught:
            run("corrected", *mistake)
        assert caught.value.code == code
    run("corrected", "coco", "inner", "--seeds", "0")


def test_an_unknown_row_is_refused_with_the_known_ones(place: Path) -> None:
    args = [f"{place}/runs", "--data", f"{place}/coco", "--teacher", f"{place}/network.onnx"]
    with pytest.raises(ConfigError, match="masks, logits") as caught:
        ablate.main([*args, "--feature", "inner", "--deep", "inner", "--rows", "logit"])
    assert caught.value.code == "unknown-row"


@pytest.mark.parametrize("few", [0, 8])
def test_a_regime_of_few_masks_needs_some_with_and_some_without(place: Path, few: int) -> None:
    with pytest.raises(ConfigError, match="masks for 8 images") as caught:
        ablation_data.prepare(place / "data", place / "coco", few)
    assert caught.value.code == "few-masks"


@pytest.mark.slow
def test_it_trains_what_is_missing_and_nothing_twice(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [
        *(f"{place}/runs", "data.image_size=[64, 64]", "training.epochs=1"),
        *("student.encoder_weights=null", "teacher.normalization=unit"),
        *(
            "--data",
            f"{place}/coco",
            "--teacher",
            f"{place}/network.onnx",
            "--output-kind",
            "logits",
        ),
        *("--feature", "inner", "--deep", "inner", "--few", "2", "--seeds", "1"),
    ]
    ablate.main([*args, "--rows", "masks", "tap", "free"])
    runs = sorted(str(path.parent.relative_to(place / "runs")) for path in done(place))
    assert runs == ["all/masks/0", "all/tap/0", "few/masks/0", "few/tap/0", "none/free/0"]
    before = {path: path.stat().st_mtime_ns for path in done(place)}
    (place / "runs" / ablation_table.TABLE).unlink()
    done(place)[0].unlink()
    ablate.main([*args, "--rows", "masks", "tap", "free"])
    assert list(before) == done(place)
    assert sum(path.stat().st_mtime_ns != then for path, then in before.items()) == 1
    assert "has all of its 1 epochs already" in capsys.readouterr().out


def done(place: Path) -> list[Path]:
    return sorted((place / "runs").glob(f"*/*/*/{ablation_table.DONE}"))
