"""Everything that can be added from outside: registered, trained, exported, predicted with."""

import io
import json
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_student
from flax import nnx
from PIL import Image
from refused import refused

import jaxdistill as jd
from jaxdistill.data.sources import SOURCES, Source, SourceExample
from jaxdistill.exporters import EXPORTERS, Report
from jaxdistill.losses import LOSSES, Loss
from jaxdistill.runtime.errors import RunError

SIZE = 32


@dataclass(frozen=True)
class AreaLoss(Loss):
    """Difference between the predicted and the true area of a person."""

    requires = frozenset({"mask"})

    def __call__(self, inputs):
        predicted = jax.nn.sigmoid(inputs.outputs.logits).mean((1, 2, 3))
        return jnp.abs(predicted - inputs.batch.masks.mean((1, 2, 3)))


@dataclass(frozen=True)
class SquareSource(Source[int]):
    """Images that are computed: a bright square is the person; `annotations` holds the number."""

    NAME = "toy_squares"
    HAS_MASKS = True
    LAYOUT = "a file count.txt"

    def list_images(self):
        return range(1, 1 + int(self.annotations.read_text()))

    def file(self, entry):
        return self.annotations

    def load(self, entry):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[entry % 16 : 16 + entry % 16, 8:24] = 1
        image = np.repeat(40 + 180 * mask[..., None], 3, -1).astype(np.uint8)
        return SourceExample(entry, f"{entry}.png", _png(image), mask=_png(255 * mask))


def _png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def toy_teacher(images):
    """Any callable from images to `TeacherOutputs` is a teacher."""
    return jd.TeacherOutputs(20 * images.mean(-1, keepdims=True) - 10)


def write_text(source, output, options):
    """An exporter for files that end in `.toy`."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(source.student)))
    output.write_text(f"{parameters} values")
    return Report((output,), {})


@pytest.fixture(scope="module", autouse=True)
def registered():
    toy_student.register()
    LOSSES.register("toy-area")(AreaLoss)
    SOURCES.register("toy_squares")(SquareSource)
    EXPORTERS.register(".toy")(write_text)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> jd.data.Data:
    root = tmp_path_factory.mktemp("toy")
    (root / "count.txt").write_text("4")
    split = {"images": ".", "annotations": "count.txt"}
    return jd.data.Data(
        jd.config.Data(
            root=root,
            source="toy_squares",
            train=split,
            validation=split,
            prepared=root / "prepared",
            image_size=(SIZE, SIZE),
            augment="flip",
        )
    )


@pytest.fixture(scope="module")
def trainer(data, tmp_path_factory) -> jd.Trainer:
    model = jd.models.create("toy-decoder", encoder="toy-encoder", frozen=("encoder",))
    trainer = jd.Trainer(
        model,
        data,
        teacher=toy_teacher,
        losses={"kl": jd.losses.KL(temperature=2.0), "toy-area": AreaLoss(weight=0.5)},
        run=tmp_path_factory.mktemp("run") / "toy",
        batch_size=2,
        learning_rate=1e-2,
    )
    return trainer.fit(epochs=1)


def test_everything_of_ones_own_trains_together(trainer) -> None:
    assert trainer.progress.step == 2
    metrics = [
        json.loads(line) for line in (trainer.run / "metrics.jsonl").read_text().splitlines()
    ]
    assert {"kl", "toy-area", "total"} < metrics[0]["train"].keys()
    assert 0 <= metrics[0]["validation"]["agreement"] <= 1


def test_the_students_of_ones_own_are_exported_and_predicted_with(trainer, data, tmp_path) -> None:
    best = trainer.best()
    jd.export(best, tmp_path / "student.onnx")
    jd.export(best, tmp_path / "student.toy")
    assert (tmp_path / "student.toy").read_text().endswith("values")
    image = data.validation[0].image
    masks = [jd.load(path).predict(image) for path in (tmp_path / "student.onnx", trainer.run)]
    assert masks[0].shape == (SIZE, SIZE)
    np.testing.assert_array_equal(masks[0], masks[1])


def test_a_configuration_names_them_too(data, tmp_path) -> None:
    settings = jd.config.check(
        {
            "run": str(tmp_path / "run"),
            "data": data.settings.model_dump(mode="json"),
            "student": {
                "encoder": "toy-encoder",
                "decoder": "toy-decoder",
                "decoder_channels": [4, 4],
            },
            "losses": {"kl": 0, "mse": 0, "toy-area": 2.0},
            "training": {"epochs": 1, "batch_size": 2},
        },
        source="toy.yaml",
    )
    trainer = jd.Trainer.from_config(settings).fit()
    assert list(trainer.losses) == ["bce", "dice", "toy-area"]
    assert trainer.losses["toy-area"].weight == 2.0
    assert trainer.progress.step == 2


def test_an_iterable_of_batches_is_data(tmp_path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 2, SIZE, SIZE, 3), np.uint8)
    batches = [(image, (image.mean(-1) > 128).astype(np.uint8)) for image in images]
    model = jd.models.create("toy-decoder", encoder="toy-encoder")
    trainer = jd.Trainer(model, batches, validation=batches, run=tmp_path / "run")
    trainer.fit(epochs=2)
    assert trainer.progress.step == 4
    assert set(trainer.losses) == {"bce", "dice"}
    again = jd.Trainer(model, batches, validation=batches, run=tmp_path / "run")
    assert again.fit(epochs=3, resume=True).progress.step == 6


def test_without_validation_images_the_newest_checkpoint_is_the_best(tmp_path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 2, SIZE, SIZE, 3), np.uint8)
    batches = [(image, (image.mean(-1) > 128).astype(np.uint8)) for image in images]
    model = jd.models.create("toy-decoder", encoder="toy-encoder", frozen=())
    trainer = jd.Trainer(model, batches, run=tmp_path / "run").fit(epochs=2)
    assert trainer.best().metadata["progress"]["step"] == trainer.progress.step == 4


def test_a_feature_loss_of_any_name_has_learned_weights(data, tmp_path) -> None:
    pairs = tuple(
        jd.config.Feature(tensor=name, tap=tap, hidden_channels=None)
        for name, tap in (("a", "encoder.1"), ("b", "decoder.0"))
    )

    def teacher(images):
        half = images[:, ::2, ::2]
        return jd.TeacherOutputs(logits=None, features=(half, half[..., :2]))

    model = jd.models.create("toy-decoder", encoder="toy-encoder", frozen=())
    hint = jd.losses.Feature(pairs=pairs, learned_weights=True)
    run = {"teacher": teacher, "run": tmp_path / "run", "batch_size": 2}
    trainer = jd.Trainer(model, data, losses={"hint": hint, "kl": jd.losses.KL()}, **run)
    assert list(trainer.losses) == ["hint"]  # this teacher has no mask to compare with
    assert set(jd.Trainer(model, data, **run).losses) == {"bce", "dice"}
    trainer.fit(epochs=1)
    [line] = (trainer.run / "metrics.jsonl").read_text().splitlines()
    weights = [json.loads(line)["train"][f"hint_weight.{number}"] for number in range(2)]
    assert sum(weights) == pytest.approx(2)


def test_a_run_is_not_resumed_with_another_python_teacher(trainer, data) -> None:
    class Other:
        provenance: ClassVar = {"weights": "a digest"}

        def __call__(self, images):
            return toy_teacher(images)

    run = {"run": trainer.run, "batch_size": 2, "learning_rate": 1e-2, "losses": trainer.losses}
    other = jd.Trainer(trainer.model, data, teacher=Other(), **run)
    with refused(RunError, "changed-settings"):
        other.fit(epochs=2, resume=True)
