"""The configuration: what is read, what is refused, and in which words."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill import config
from jaxdistill.config import yaml_files
from jaxdistill.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
SPECIFIED = ROOT / "configs" / "yolo_feature_distillation_b0_from_b3.yaml"


def test_the_specification_s_configuration_holds_its_values() -> None:
    c = config.load(SPECIFIED)
    assert c.data.image_size == (640, 640)
    assert c.student.encoder == "timm-efficientnet-b0"
    assert c.student.frozen == ("encoder",)
    assert c.detector is not None
    assert c.detector.onnx.name == "yolov9_e_wholebody25_Nx3x640x640_featext_optimized.onnx"
    assert c.detector.normalization == "unit"
    [feature] = c.features
    assert feature.tensor == "segmentation_model_34_Concat_output_0"
    assert (feature.tap, feature.hidden_channels, feature.loss) == ("encoder.3", 768, "mse")
    weights = c.losses
    assert (weights.kl, weights.mse, weights.bce, weights.dice) == (1.0, 0.5, 0.5, 1.0)
    assert (weights.feature * feature.weight, weights.kl_scale) == (0.5, "t")
    assert weights.temperature == config.Temperature(initial=3.0, final=1.0, schedule="cosine")
    training = c.training
    assert (training.learning_rate, training.batch_size, training.epochs) == (1e-4, 4, 50)
    assert (training.weight_decay, training.final_learning_rate) == (1e-4, 1e-6)
    assert training.clip == config.Clip(norm=0.5, per="all")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_that_ships_is_read_and_written_back(
    path: Path, tmp_path: Path
) -> None:
    loaded = config.load(path)
    again = tmp_path / "again.yaml"
    again.write_text(config.dump(loaded))
    assert config.load(again) == loaded


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("trainig.epochs=3", "unknown key 'trainig'; did you mean 'training'?"),
        ("training.epoch=3", "unknown key 'training.epoch'; did you mean 'epochs'?"),
        ("features.0.tapp=a", "unknown key 'features.0.tapp'; did you mean 'tap'?"),
        ("teacher.zzz=1", "unknown key 'teacher.zzz'; known here: onnx, normalization, size"),
        ("training.epochs=many", "training.epochs: should be a valid integer, got 'many'"),
        ("training.epochs=2.5", "training.epochs: should be a valid integer"),
        ("training.epochs='3'", "training.epochs: should be a valid integer, got '3'"),
        ("training.epochs=0", "training.epochs: should be greater than or equal to 1, got 0"),
        ("training.clip=5", "training.clip: should be"),
        ("losses.kl=.nan", "losses.kl: should be a finite number"),
        ("losses.kl_scale=t3", "losses.kl_scale: should be 'none', 't' or 't2', got 't3'"),
        ("data.image_size=[640]", "'data.image_size.1' is missing"),
        ("data.image_size=[640, 100]", "multiples of 32"),
        ("student.normalization=foo", "student.normalization: should be 'imagenet'"),
        ("student.weights=a.safetensors", "set encoder_weights to null"),
        ("run=null", "run: "),
        ("run=2026-01-01", "not JSON serializable"),
        ("teacher=null", "losses.kl and losses.mse need a teacher"),
        ("detector=null", "give detector.onnx"),
        ("features.0.loss=kl", "features.0.loss: should be 'mse', 'cosine', 'cwd' or 'mgd'"),
        ("features.0.masked_share=1", "features.0.masked_share: should be less than 1"),
        ("features.0={tensor: a, loss: cwd, attention: mask}", "not defined for loss: cwd"),
        ("losses.feature_weights=learned", "list at least two, or choose fixed"),
        ("features.3.tap=x", "override features.3.tap"),
        ("data.image_size.0.x=3", "data.image_size.0: should be a valid integer, got {'x': 3}"),
        ("mesh.data=two", "mesh.data: should be a valid integer or 'auto', got 'two'"),
        ("teacher.normalization={mean: [0, 0, 0], std: [0, 1, 1]}", "normalization.std.0: should"),
        ("student.frozen=[encoder, projectors]", "they are always trained"),
        ("losses={kl: 0, mse: 0, bce: 0, dice: 0, feature: 0}", "nothing teaches the student"),
        ("seed", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("seed=[1", "override seed:1: not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(override: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load(SPECIFIED, [override])
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_features_that_weigh_nothing_teach_nothing() -> None:
    alone = ["losses={kl: 0, mse: 0, bce: 0, dice: 0, feature: 1}"]
    assert config.load(SPECIFIED, alone).taught_features
    with pytest.raises(UserError, match="nothing teaches the student"):
        config.load(SPECIFIED, [*alone, "features.0.weight=0"])


@pytest.mark.parametrize("attention", ["mask", "uncertainty"])
def test_attention_of_the_teacher_s_needs_a_teacher(attention: str) -> None:
    alone = ["teacher=null", "losses.kl=0", "losses.mse=0", "features.0.attention=energy"]
    assert config.load(SPECIFIED, alone).features[0].attention == "energy"
    with pytest.raises(UserError, match=r"features\.0\.attention: .* give teacher\.onnx"):
        config.load(SPECIFIED, [*alone, f"features.0.attention={attention}"])


def test_an_override_changes_one_of_the_places_that_share_an_anchor(tmp_path: Path) -> None:
    file = tmp_path / "shared.yaml"
    file.write_text(
        "{run: r, data: {root: d}, teacher: &net {onnx: a.onnx, normalization: {mean: [0, 0, 0], "
        "std: [1, 1, 1]}}, detector: *net}"
    )
    changes = ["detector.onnx=b.onnx", "detector.normalization.mean=[1, 1, 1]"]
    loaded = config.load(file, changes)
    assert loaded.teacher
    assert loaded.detector
    assert (str(loaded.teacher.onnx), str(loaded.detector.onnx)) == ("a.onnx", "b.onnx")
    means = [
        part.normalization.mean
        for part in (loaded.teacher, loaded.detector)
        if isinstance(part.normalization, config.MeanStd)
    ]
    assert means == [(0, 0, 0), (1, 1, 1)]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded = config.load(SPECIFIED, ["run=~/a", "student.encoder_weights=~/b", "data.root=~/c"])
    found = [loaded.run, loaded.student.encoder_weights, loaded.data.root]
    assert found == [tmp_path / name for name in "abc"]


PLAIN_TRAIN, PLAIN_VALIDATION = "data.train.annotations=null", "data.validation.annotations=null"
NO_TEACHER = ["teacher=null", "losses.kl=0", "losses.mse=0"]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ([PLAIN_TRAIN, "teacher=null"], "data.train has no masks (annotations: null), so a teach"),
        ([PLAIN_TRAIN, *NO_TEACHER], "data.train has no masks"),
        ([PLAIN_TRAIN, "losses.kl=0", "losses.mse=0"], "losses.kl or losses.mse above 0"),
        ([PLAIN_VALIDATION, *NO_TEACHER], "data.validation has no masks"),
        (["data.unlabelled=more", *NO_TEACHER, "features=[]"], "data.unlabelled has no masks"),
        ([PLAIN_TRAIN, PLAIN_VALIDATION, "losses.kl=0"], None),
        ([PLAIN_TRAIN, "data.unlabelled=more", "losses.mse=0"], None),
        (["data.unlabelled=more", *NO_TEACHER], None),  # the detector teaches
    ],
)
def test_pictures_without_masks_need_something_that_teaches(
    overrides: list[str], complaint: str | None
) -> None:
    if complaint is None:
        c = config.load(SPECIFIED, overrides)
        assert c.data.train.labelled == (PLAIN_TRAIN not in overrides)
        return
    with pytest.raises(UserError) as caught:
        config.load(SPECIFIED, overrides)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_split_that_is_given_in_part_keeps_the_rest() -> None:
    usual = config.load(SPECIFIED).data
    changed = config.load(SPECIFIED, ["data.train.annotations=other.json"]).data
    assert changed.train.annotations == Path("other.json")
    assert changed.train.images == usual.train.images
    assert changed.validation == usual.validation


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


def test_a_file_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(UserError, match="extends itself"):
        config.load(tmp_path / "a.yaml")


def test_a_missing_file_is_named_in_full(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}/none.yaml: No such file"):
        config.load(tmp_path / "none.yaml")


def test_yaml_cannot_build_python_objects(tmp_path: Path) -> None:
    evil = tmp_path / "evil.yaml"
    evil.write_text(f"run: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(UserError, match="not valid YAML"):
        config.load(evil)
    assert not (tmp_path / "made").exists()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_as_python_writes_it(number: float) -> None:
    assert yaml_files.parse_yaml(repr(number), "here") == number


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        yaml_files.parse_yaml(text, "here")
    except UserError as error:
        assert "\n" not in str(error)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["run", "data", "root", "losses", "features", "tap", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_tree_is_a_configuration_or_one_clear_line(tree: object) -> None:
    try:
        config.check({"run": "r", "data": {"root": "d"}, "extra": tree}, "here")
        raise AssertionError("an unknown key was accepted")
    except UserError as error:
        assert "\n" not in str(error)
    if isinstance(tree, dict):
        try:
            again = config.check(tree, "here")
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert config.check(yaml.safe_load(config.dump(again)), "again") == again
