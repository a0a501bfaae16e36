"""Configuration files: what extends what, overrides, shipped configurations, and YAML itself."""

from pathlib import Path

import pytest
import tiny_run
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill import config
from jaxdistill.config import yaml_files
from jaxdistill.runtime.errors import ConfigError

SHIPPED = sorted((tiny_run.ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_found_by_its_name(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = config.load(path)
    monkeypatch.chdir(tmp_path)
    assert config.load(path.stem) == loaded
    (tmp_path / "again.yaml").write_text(config.dump(loaded))
    assert config.load("again.yaml") == loaded


def test_a_file_takes_precedence_over_a_shipped_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text("{run: mine, losses: {kl: 0, mse: 0}}")
    assert config.load("demo").run == Path("mine")


def test_a_file_extends_a_shipped_configuration_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{extends: recommended, run: mine}")
    recommended = config.load("recommended")
    assert config.load(tmp_path / "mine.yaml") == recommended.model_copy(
        update={"run": Path("mine")}
    )


def test_an_unknown_name_shows_the_shipped_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'recommended'") as caught:
        config.load("recomended")
    assert caught.value.code == "no-such-file"


def test_a_missing_file_is_named_in_full(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path / "none.yaml")) as caught:
        config.load(tmp_path / "none.yaml")
    assert caught.value.code == "no-such-file"


def test_overrides_win_over_the_file_and_the_file_over_what_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "run: runs/a\ndata: {root: there}\nlosses: {kl: 0, mse: 0, bce: 2}\n"
        "training: {epochs: 7, batch_size: 2}\n"
    )
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\ntraining: {epochs: 9}\n")
    c = config.load(child, ["losses.bce=3e-1", "data.workers=1"])
    assert (c.training.epochs, c.training.batch_size) == (9, 2)
    assert (c.losses.bce, c.data.root, c.data.workers) == (0.3, Path("there"), 1)


def test_an_override_changes_one_of_the_places_that_share_an_anchor(tmp_path: Path) -> None:
    file = tmp_path / "shared.yaml"
    file.write_text(
        "{run: r, data: {root: d}, teacher: &net {onnx: a.onnx, normalization: {mean: [0, 0, 0], "
        "std: [1, 1, 1]}}, detector: *net}"
    )
    changes = ["detector.onnx=b.onnx", "detector.normalization.mean=[1, 1, 1]"]
    c = config.load(file, changes)
    assert c.teacher
    assert c.detector
    assert (str(c.teacher.onnx), str(c.detector.onnx)) == ("a.onnx", "b.onnx")
    means = [
        part.normalization.mean
        for part in (c.teacher, c.detector)
        if isinstance(part.normalization, config.MeanStd)
    ]
    assert means == [(0, 0, 0), (1, 1, 1)]


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("seed", "invalid-override"),
        ("=3", "invalid-override"),
        ("features.3.tap=x", "invalid-override"),
        ("features.x=1", "invalid-override"),
        ("seed.x.y=1", "invalid-override"),
        ("run=runs/exp #2", "invalid-override"),
        ("data.mask_values=#c08080", "invalid-override"),
        ("run.x=1", "invalid-override"),
        ("data.additional={images:", "invalid-override"),
        ("seed=[1,", "invalid-override"),
        ("seed=[1, {]", "yaml-syntax"),
        ("training={epochs: 1, epochs: 2}", "repeated-key"),
    ],
)
def test_an_override_that_sets_nothing_is_refused(override: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tiny_run.SPECIFIED, ["seed=[]", override])
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("run: a\nrun: b\n", "repeated-key"),
        ("run: a\ndata: {root: d, root: e}\n", "repeated-key"),
        ("run: [a\n", "yaml-syntax"),
        ("run: &a [*a]\n", "yaml-syntax"),
        ("- run\n", "wrong-type"),
        ("", "wrong-type"),
        ("extends: 3\n", "wrong-type"),
        ("extends: file.yaml\n", "extends-itself"),
        ("extends: none.yaml\n", "no-such-file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str, code: str) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=str(tmp_path)) as caught:
        config.load(file)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_a_repeated_key_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("run: a\ndata:\n  root: d\n  root: e\n")
    with pytest.raises(ConfigError, match=r"file\.yaml:4: the key 'root'"):
        config.load(file)


def test_a_yaml_merge_may_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("a: &a {onnx: x, size: null}\nb: {<<: *a, onnx: y}\n")
    assert yaml_files.parse_yaml(file.read_text(), "here")["b"] == {"onnx": "y", "size": None}


def test_a_file_that_extends_itself_through_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "a.yaml")
    assert caught.value.code == "extends-itself"


def test_yaml_cannot_build_python_objects(tmp_path: Path) -> None:
    evil = tmp_path / "evil.yaml"
    evil.write_text(f"run: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(ConfigError) as caught:
        config.load(evil)
    assert caught.value.code == "yaml-syntax"
    assert not (tmp_path / "made").exists()


def test_absolute_paths_hold_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    c = config.load("recommended", ["data.unlabelled=more", "targets.cache=cache"])
    absolute = config.with_absolute_paths(c)
    assert absolute.run == tmp_path / c.run
    assert absolute.targets.cache == tmp_path / "cache"
    assert c.data.root is not None
    assert absolute.data.root == tmp_path / c.data.root
    assert c.teacher is not None
    assert absolute.teacher is not None
    assert absolute.teacher.onnx == tmp_path / c.teacher.onnx
    assert (absolute.data.unlabelled, absolute.data.train) == (Path("more"), c.data.train)
    monkeypatch.chdir("/")
    assert config.with_absolute_paths(absolute) == absolute


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_as_python_writes_it(number: float) -> None:
    assert yaml_files.parse_yaml(repr(number), "here") == number


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_in_one_line(text: str) -> None:
    try:
        yaml_files.parse_yaml(text, "here")
    except ConfigError as error:
        assert "\n" not in str(error)


def test_a_date_is_text(tmp_path: Path) -> None:
    settings = config.load(tiny_run.SPECIFIED, ["run=2024-01-31", "data.root=/data/2024-01-31"])
    assert (settings.run, settings.data.root) == (Path("2024-01-31"), Path("/data/2024-01-31"))


@pytest.mark.parametrize(
    ("override", "share"),
    [
        ("data.validation.images=b", None),
        ("data.validation.annotations=b.json", None),
        ("data.train.images=b", 0.1),
        ("data.validation={images: b, share: 0.2}", 0.2),
    ],
)
def test_images_for_validation_replace_a_share(
    tmp_path: Path, override: str, share: float | None
) -> None:
    """A run of which a share was validated on is evaluated on other images."""
    file = tmp_path / "run.yaml"
    file.write_text("extends: browser\ndata: {train: {images: a}, validation: 10%}\n")
    stored = tmp_path / "config.yaml"
    stored.write_text(config.dump(config.load(file)))
    assert config.load(stored).data.validation.share == 0.1
    found = config.load(stored, [override]).data.validation
    assert found.share == share
    if override == "data.validation.images=b":
        assert found.images == Path("b")
