"""A trainer that is made from Python objects: its arguments are checked as a configuration's."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
import toy_student
from PIL import Image
from refused import refused

import jaxdistill as jd
from jaxdistill.commands import evaluate
from jaxdistill.runtime.errors import ConfigError, DataError, RunError
from jaxdistill.training.descriptions import describe


@pytest.fixture(autouse=True)
def _registered() -> None:
    toy_student.register()


def teacher(images: jax.Array) -> jd.TeacherOutputs:
    return jd.TeacherOutputs(20 * images.mean(-1, keepdims=True) - 10)


class Described:
    """A teacher that can be cached."""

    provenance = {"weights": "a digest"}  # noqa: RUF012

    def __call__(self, images: jax.Array) -> jd.TeacherOutputs:
        return teacher(images)


def model(**options):
    return jd.models.create("toy-decoder", encoder="toy-encoder", **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of images without masks."""
    root = tmp_path_factory.mktemp("root")
    random = np.random.default_rng(0)
    for split in ("train", "validation"):
        (root / split).mkdir()
        for number in range(4):
            values = random.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(values).save(root / split / f"{number}.png")
    return root


def unlabelled(root: Path, **options) -> jd.data.Data:
    return jd.data.open(root, image_size=32, prepared=root / "prepared", **options)


def test_keyword_arguments_come_before_the_settings(tmp_path: Path) -> None:
    first = toy_student.trainer(tmp_path / "first", batch_size=2)
    second = jd.Trainer(
        model(),
        toy_student.batches(),
        validation=toy_student.batches(),
        run=tmp_path / "second",
        settings=first.settings,
        epochs=7,
        early_stopping=jd.config.EarlyStopping(patience=3),
        seed=5,
    ).settings
    assert (second.seed, second.training.epochs, second.run) == (5, 7, tmp_path / "second")
    assert second.training.early_stopping == jd.config.EarlyStopping(patience=3)
    assert second.training.learning_rate == first.settings.training.learning_rate == 1e-2


def test_the_student_is_the_one_that_is_given_whatever_the_settings_say(tmp_path: Path) -> None:
    trainer = jd.Trainer(
        model(frozen=()),
        toy_student.batches(),
        run=tmp_path / "run",
        settings=jd.config.Config(
            run=tmp_path / "other", losses=jd.config.Losses(kl=0, mse=0, feature=0)
        ),
        batch_size=2,
    )
    assert trainer.settings.student == trainer.model.settings
    assert any(path.startswith("encoder.") for path in trainer.partition.params)
    assert trainer.fit(epochs=1).best().student.settings.encoder == "toy-encoder"


def test_a_student_is_measured_before_it_is_trained(tmp_path: Path) -> None:
    trainer = toy_student.trainer(tmp_path / "run")
    trainer.setup()
    scores = trainer.validate()
    assert scores is not None
    assert 0 <= scores["student_miou"] <= 1


def test_attention_to_the_teacher_needs_a_teacher_with_logits(tmp_path: Path) -> None:
    def features_only(images: jax.Array) -> jd.TeacherOutputs:
        return jd.TeacherOutputs(None, (images[:, ::2, ::2],))

    def trainer(**losses: jd.losses.Loss) -> jd.Trainer:
        return jd.Trainer(
            model(),
            toy_student.batches(),
            teacher=features_only,
            losses=losses,
            validation=toy_student.batches(),
            run=tmp_path / "run",
            batch_size=2,
        )

    pair = jd.config.Feature(tensor="x", tap="decoder.0", hidden_channels=4, attention="mask")
    feature = jd.losses.Feature(pairs=(pair,))
    assert feature.requires == {"features", "teacher_logits"}
    with refused(ConfigError, "no-usable-loss"):
        trainer(f=feature)
    built = trainer(f=feature, bce=jd.losses.BCE())
    assert (list(built.losses), list(built.unused_losses)) == (["bce"], ["f"])
    assert "loss f is not used: there is no teacher's mask" in describe(built)


@pytest.mark.parametrize(
    ("keywords", "code"),
    [
        ({"lr": 1e-3}, "unknown-key"),
        ({"seed": -1}, "out-of-range"),
        ({"epochs": 0}, "out-of-range"),
    ],
)
def test_wrong_keyword_arguments_are_refused(tmp_path: Path, keywords: dict, code: str) -> None:
    with refused(ConfigError, code, next(iter(keywords))):
        toy_student.trainer(tmp_path / "run", **keywords)


@pytest.mark.parametrize(("epochs", "code"), [(0, "out-of-range"), (2, "warmup-too-long")])
def test_a_length_that_no_configuration_could_have_is_refused(
    tmp_path: Path, epochs: int, code: str
) -> None:
    trainer = toy_student.trainer(tmp_path / "run", warmup_epochs=3)
    with refused(ConfigError, code):
        trainer.fit(epochs=epochs)
    assert not (tmp_path / "run").exists()


def test_images_without_masks_are_trained_on_with_a_teacher(root: Path, tmp_path: Path) -> None:
    data, run = unlabelled(root), tmp_path / "run"
    with refused(ConfigError, "masks-needed"):
        jd.Trainer(model(), data, run=run)
    losses = {"kl": jd.losses.KL()}
    trainer = jd.Trainer(model(), data, teacher=teacher, losses=losses, run=run, batch_size=2)
    trainer.fit(epochs=1)
    assert jd.load(run).predict(data.validation[0].image).shape == (40, 40)
    with refused(DataError, "nothing-to-compare"):
        evaluate.main([str(run)])


def test_a_validation_without_masks_needs_a_teacher(root: Path, tmp_path: Path) -> None:
    (root / "masks").mkdir(exist_ok=True)
    for path in (root / "train").iterdir():
        Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(root / "masks" / path.name)
    data = unlabelled(
        root,
        source="mask_folder",
        train={"images": "train", "annotations": "masks"},
        validation={"images": "validation", "annotations": None},
    )
    with refused(ConfigError, "masks-needed"):
        jd.Trainer(model(), data, run=tmp_path / "run")


def _channels_first(images: jax.Array) -> jd.TeacherOutputs:
    return jd.TeacherOutputs(teacher(images).logits.transpose(0, 3, 1, 2))


def _small(images: jax.Array) -> jd.TeacherOutputs:
    return jd.TeacherOutputs(teacher(images).logits[:, ::4, ::4])


def _without_channel(images: jax.Array) -> jd.TeacherOutputs:
    return jd.TeacherOutputs(teacher(images).logits[..., 0])


@pytest.mark.parametrize("wrong", [_channels_first, _small, _without_channel])
def test_logits_that_are_no_mask_of_the_image_are_refused(tmp_path: Path, wrong) -> None:
    with refused(ConfigError, "teacher-shape"):
        jd.Trainer(model(), toy_student.batches(), teacher=wrong, run=tmp_path / "run")


def test_a_teacher_with_a_cache_sees_images_that_are_the_same_in_every_epoch(
    root: Path, tmp_path: Path
) -> None:
    """Brightness and colours change for the student alone."""
    from jaxdistill.teachers.target_cache import CachedTeacher

    cached = CachedTeacher(Described(), tmp_path / "cache", image_size=(32, 32))
    data = unlabelled(root, augment="light")
    trainer = jd.Trainer(
        model(),
        data,
        teacher=cached,
        losses={"kl": jd.losses.KL()},
        run=tmp_path / "run",
        batch_size=4,
    )
    trainer.setup()
    batches = trainer.inputs.train_batches(0)
    changed = []
    for _ in range(3):
        batch, outputs = next(batches)
        expected = teacher(jnp.asarray(batch.images)).logits
        changed.append(float(jnp.abs(outputs.logits - expected).mean()))
    batches.close()
    assert max(changed) > 0.5
    counts = trainer.inputs.cache_counts()["cache"]
    assert counts["computed"] <= 8  # four images and their flips

    given = trainer.settings.model_copy(update={"targets": jd.config.Targets()})
    with refused(ConfigError, "cannot-cache"):
        jd.Trainer(
            model(),
            data,
            teacher=cached,
            losses={"kl": jd.losses.KL()},
            run=tmp_path / "other",
            settings=given,
        ).setup()


def test_a_trainer_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    trainer = toy_student.trainer(tmp_path / "run", callbacks=[toy_student.StopAfter(2)])
    trainer.fit()
    assert trainer.progress.step == 3
    trainer.fit(resume=True)
    assert trainer.progress.step == 8
    assert not trainer.stop_requested


def test_a_trainer_that_failed_before_its_first_checkpoint_starts_anew(tmp_path: Path) -> None:
    class FailOnce(jd.Callback):
        failed = False

        def on_step_end(self, trainer: jd.Trainer, step: int) -> None:
            if step == 1 and not self.failed:
                self.failed = True
                raise RuntimeError("a fault")

    expected = toy_student.trainer(tmp_path / "whole").fit(epochs=2)
    for epochs in (None, 2):
        run = tmp_path / f"failed {epochs}"
        trainer = toy_student.trainer(run, callbacks=[FailOnce()], epochs=2)
        with pytest.raises(RuntimeError):
            trainer.fit()
        trainer.fit(epochs=epochs, resume=True)
        assert trainer.progress.step == expected.progress.step
        actual = trainer.variables()
        for path, value in expected.variables().items():
            np.testing.assert_array_equal(actual[path], value, err_msg=path)


def test_a_trainer_that_unfreezes_goes_on_with_more_epochs(tmp_path: Path) -> None:
    unfreeze = jd.config.Unfreezing(from_epoch=2, every=1, stages=1)
    trainer = toy_student.trainer(tmp_path / "run", unfreeze=unfreeze, epochs=2)
    trainer.fit()
    assert trainer.fit(epochs=3, resume=True).progress.epoch == 3
    assert trainer.best().metadata["progress"]["step"] > 0
    for line in map(json.loads, (tmp_path / "run/metrics.jsonl").open()):
        rates = line["train"]
        assert rates["learning_rate_encoder"] == pytest.approx(0.1 * rates["learning_rate"])


def test_a_run_is_not_resumed_with_another_loss_of_that_name(tmp_path: Path) -> None:
    toy_student.trainer(tmp_path / "run").fit(epochs=1)
    trainer = toy_student.trainer(tmp_path / "run")
    trainer.losses = {"bce": jd.losses.BCE(weight=3.0)}
    with refused(RunError, "changed-settings", "bce"):
        trainer.fit(resume=True)


def test_scores_on_other_validation_images_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masks of the second ones are the opposite, so that all scores on them are low."""

    def trainer(validation: list, fingerprint: str, epochs: int) -> jd.Trainer:
        made = jd.Trainer(
            model(),
            toy_student.batches(),
            validation=validation,
            losses={"bce": jd.losses.BCE(weight=1.0)},
            run=tmp_path / "run",
            console=tiny_run.QUIET,
            learning_rate=0.1,
            epochs=epochs,
        )
        assert made.data.validation is not None
        monkeypatch.setattr(made.data.validation, "fingerprint", fingerprint, raising=False)
        return made

    first = trainer(toy_student.batches(), "one", 4).fit().best().metadata
    opposite = [{**each, "masks": 1 - each["masks"]} for each in toy_student.batches()]
    second = trainer(opposite, "two", 6).fit(resume=True, accept_changes=True)
    assert second.best().metadata["score"] < first["score"]
    assert second.best().metadata["progress"]["step"] > 8
    assert second.progress.best_epoch > 4


def test_the_augmentation_of_an_iterable_is_recorded(tmp_path: Path) -> None:
    data = jd.data.IterableData(toy_student.batches(), augment="flip", crop=0.5)
    recorded = jd.Trainer(model(), data, run=tmp_path / "run").settings.data
    assert (recorded.augment, recorded.crop) == ("flip", 0.5)


def test_a_plan_of_unfreezing_that_never_begins_is_warned_of(tmp_path: Path) -> None:
    def warned(from_epoch: int) -> bool:
        plan = {"from_epoch": from_epoch}
        trainer = jd.Trainer(
            jd.models.create("toy-decoder", encoder="toy-encoder", unfreeze=plan),
            toy_student.batches(),
            validation=toy_student.batches(),
            run=tmp_path / "run",
            epochs=2,
        )
        return any("student.unfreeze.from_epoch" in line for line in describe(trainer))

    assert warned(3)
    assert not warned(2)


def test_a_run_of_few_steps_is_warned_of(tmp_path: Path) -> None:
    def warned(epochs: int) -> bool:
        trainer = jd.Trainer(
            jd.models.create("toy-decoder", encoder="toy-encoder"),
            toy_student.batches(),
            validation=toy_student.batches(),
            run=tmp_path / "run",
            epochs=epochs,
        )
        trainer.steps_per_epoch = 2
        return any("training.epochs=150" in line for line in describe(trainer))

    assert warned(49)
    assert not warned(50)
