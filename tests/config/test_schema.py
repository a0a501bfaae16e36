"""The schema: which keys and values are accepted, and how the others are refused."""

from pathlib import Path

import pytest
import tiny_run
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill import config
from jaxdistill.config.loader import RENAMED
from jaxdistill.runtime.errors import ConfigError

SPECIFIED = tiny_run.SPECIFIED


def refusal(*overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.load(SPECIFIED, overrides)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_specified_configuration_has_the_specified_values() -> None:
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


@pytest.mark.parametrize(
    ("override", "code", "key"),
    [
        ("trainig.epochs=3", "unknown-key", "trainig"),
        ("training.epoch=3", "unknown-key", "training.epoch"),
        ("features.0.tapp=a", "unknown-key", "features.0.tapp"),
        ("data.additional={image: a, annotations: b}", "unknown-key", "data.additional.image"),
        ("data.additional={annotations: b}", "missing-key", "data.additional.images"),
        ("data.additional=a", "wrong-type", "{images: ..., annotations: ...}"),
        ("teacher.zzz=1", "unknown-key", "teacher.zzz"),
        ("losses.kl_scael=t", "unknown-key", "losses.kl_scael"),
        ("training.epochs=many", "wrong-type", "training.epochs"),
        ("training.epochs=2.5", "wrong-type", "training.epochs"),
        ("training.epochs='3'", "wrong-type", "training.epochs"),
        ("training.clip=5", "wrong-type", "training.clip"),
        ("mesh.data=two", "wrong-type", "mesh.data"),
        ("data.image_size.0.x=3", "invalid-override", "data.image_size.0"),
        ("data=null", "wrong-type", "data"),
        ("run=null", "wrong-type", "run"),
        ("training.epochs=0", "out-of-range", "training.epochs"),
        ("losses.kl=.nan", "out-of-range", "losses.kl"),
        ("losses.mine=-1", "out-of-range", "losses.mine"),
        ("features.0.masked_share=1", "out-of-range", "features.0.masked_share"),
        (
            "teacher.normalization={mean: [0, 0, 0], std: [0, 1, 1]}",
            "out-of-range",
            "teacher.normalization.std.0",
        ),
        ("losses.kl_scale=t3", "unknown-value", "losses.kl_scale"),
        ("student.normalization=foo", "unknown-value", "student.normalization"),
        ("features.0.loss=kl", "unknown-value", "features.0.loss"),
        ("data.image_size=[640]", "missing-key", "data.image_size.1"),
        ("teacher={tensor: a}", "missing-key", "teacher.onnx"),
        ("student.decoder_channels=[]", "wrong-length", "student.decoder_channels"),
        ("student.weights=a.safetensors", "conflicting-keys", "encoder_weights"),
        ("student.frozen=[encoder, projectors]", "frozen-projectors", "frozen"),
        ("teacher=null", "teacher-needed", "losses.kl"),
        ("detector=null", "detector-needed", "detector.onnx"),
        (
            "features.0={tensor: a, loss: cwd, attention: mask}",
            "invalid-attention",
            "features.0: attention",
        ),
        ("losses.feature_weights=learned", "features-needed", "losses.feature_weights"),
        (
            "losses={kl: 0, mse: 0, bce: 0, dice: 0, feature: 0}",
            "nothing-to-learn",
            "kl or mse",
        ),
        ('run="a\\0b"', "invalid-path", "run"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_its_full_path(
    override: str, code: str, key: str
) -> None:
    error = refusal(override)
    assert (error.code, key in str(error)) == (code, True), str(error)


def test_a_misspelt_key_shows_the_nearest_one() -> None:
    assert "did you mean 'training'?" in str(refusal("trainig.epochs=3"))
    assert "known keys: onnx, normalization, size" in str(refusal("teacher.zzz=1"))


@pytest.mark.parametrize("old", RENAMED)
def test_a_renamed_key_is_refused_with_its_new_name(old: str) -> None:
    error = refusal(f"{old}=x")
    assert error.code == "renamed-key"
    assert RENAMED[old] in str(error)


def test_a_further_key_of_losses_is_the_weight_of_a_registered_loss() -> None:
    c = config.load(SPECIFIED, ["losses.tversky=0.25", "losses.focal=2"])
    assert c.losses.registered == {"tversky": 0.25, "focal": 2.0}
    alone = ["losses={kl: 0, mse: 0, bce: 0, dice: 0, feature: 0, mine: 1}"]
    assert config.load(SPECIFIED, alone).losses.registered == {"mine": 1.0}
    assert config.check(yaml.safe_load(config.dump(c)), "dumped") == c


def test_a_configuration_in_memory_needs_no_data_folder() -> None:
    losses = config.Losses(kl=0, mse=0)
    c = config.Config(run=Path("r"), losses=losses)
    assert c.data.root is None
    assert config.check(yaml.safe_load(config.dump(c)), "dumped") == c


def test_feature_pairs_of_weight_zero_train_nothing() -> None:
    alone = ["losses={kl: 0, mse: 0, bce: 0, dice: 0, feature: 1}"]
    assert config.load(SPECIFIED, alone).weighted_features
    assert refusal(*alone, "features.0.weight=0").code == "nothing-to-learn"


@pytest.mark.parametrize("attention", ["mask", "uncertainty"])
def test_attention_to_the_teacher_needs_a_teacher(attention: str) -> None:
    alone = ["teacher=null", "losses.kl=0", "losses.mse=0", "features.0.attention=energy"]
    assert config.load(SPECIFIED, alone).features[0].attention == "energy"
    error = refusal(*alone, f"features.0.attention={attention}")
    assert (error.code, "features.0.attention" in str(error)) == ("teacher-needed", True)


@pytest.mark.parametrize("kind", ["light", "heavy"])
def test_a_cache_needs_outputs_that_do_not_change(kind: str) -> None:
    overrides = ["targets.cache=folder", f"data.augment={kind}"]
    assert refusal(*overrides).code == "cannot-cache"
    assert config.load(SPECIFIED, [*overrides, "targets.clean_images=true"]).targets.cache


PLAIN_TRAIN, PLAIN_VALIDATION = "data.train.annotations=null", "data.validation.annotations=null"
NO_TEACHER = ["teacher=null", "losses.kl=0", "losses.mse=0"]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ([PLAIN_TRAIN, "teacher=null"], "data.train"),
        ([PLAIN_TRAIN, *NO_TEACHER], "data.train"),
        ([PLAIN_TRAIN, "losses.kl=0", "losses.mse=0"], "data.train"),
        ([PLAIN_VALIDATION, *NO_TEACHER], "data.validation"),
        (["data.unlabelled=more", *NO_TEACHER, "features=[]"], "data.unlabelled"),
    ],
)
def test_images_without_masks_need_something_to_learn_from(overrides: list[str], key: str) -> None:
    error = refusal(*overrides)
    assert (error.code, str(error).split(": ")[1].startswith(key)) == ("masks-needed", True)


@pytest.mark.parametrize(
    "overrides",
    [
        [PLAIN_TRAIN, PLAIN_VALIDATION, "losses.kl=0"],
        [PLAIN_TRAIN, "data.unlabelled=more", "losses.mse=0"],
        [PLAIN_TRAIN, *NO_TEACHER, "losses.mine=1"],
        ["data.unlabelled=more", *NO_TEACHER],  # trained on the detector's features
    ],
)
def test_images_without_masks_are_accepted_where_a_loss_uses_them(overrides: list[str]) -> None:
    c = config.load(SPECIFIED, overrides)
    assert c.data.train.labelled == (PLAIN_TRAIN not in overrides)


def test_a_split_takes_missing_keys_from_its_default() -> None:
    default = config.load(SPECIFIED).data
    changed = config.load(SPECIFIED, ["data.train.annotations=other.json"]).data
    assert changed.train.annotations == Path("other.json")
    assert changed.train.images == default.train.images
    assert changed.validation == default.validation


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    c = config.load(SPECIFIED, ["run=~/a", "student.encoder_weights=~/b", "data.root=~/c"])
    assert [c.run, c.student.encoder_weights, c.data.root] == [tmp_path / name for name in "abc"]


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
def test_any_tree_is_a_configuration_or_refused_in_one_line(tree: object) -> None:
    with pytest.raises(ConfigError) as caught:
        config.check({"run": "r", "data": {"root": "d"}, "extra": tree}, "here")
    assert "\n" not in str(caught.value)
    if isinstance(tree, dict):
        try:
            again = config.check(tree, "here")
        except ConfigError as error:
            assert "\n" not in str(error)
        else:
            assert config.check(yaml.safe_load(config.dump(again)), "again") == again
