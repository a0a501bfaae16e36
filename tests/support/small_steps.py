"""Training steps of a student small enough to follow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import config, losses, models
from jaxdistill.models import Student, unfreezing
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.models.parameters import Partition
from jaxdistill.training.step import jit_train_step
from jaxdistill.training.step_spec import StepSpec, initial_state, step_spec
from jaxdistill.types import Batch, TeacherOutputs, TrainState

SIZE = 32


def settings_for(tap: str = "encoder.3", **training: object) -> config.Config:
    return config.Config(
        run="runs/none",
        data=config.Data(root="none", image_size=(SIZE, SIZE)),
        student=config.Student(
            encoder="tf_efficientnet_lite0",
            decoder_channels=(16, 8, 8, 4, 4),
            normalization="half",
        ),
        teacher=config.Teacher(onnx="none.onnx"),
        detector=config.Detector(onnx="none.onnx"),
        features=(config.Feature(tensor="inner", tap=tap, hidden_channels=6),),
        losses=config.Losses(temperature=config.Temperature(initial=3, final=1)),
        training=config.Training(epochs=2, learning_rate=1e-2, **training),
    )


def student_for(settings: config.Config, pairs: list[Pair] | None = None) -> Student:
    if pairs is None:
        pairs = [Pair(feature.tap, 5, feature.hidden_channels) for feature in settings.features]
    return models.build(settings.student, pairs, seed=settings.seed, dtype=settings.precision)


class Steps:
    """A student taken apart, and its compiled training step."""

    def __init__(
        self,
        settings: config.Config,
        steps_per_epoch: int = 3,
        pairs: list[Pair] | None = None,
        phase: int = 0,
        mesh: Any = None,
    ) -> None:
        self.settings = settings
        self.student = student_for(settings, pairs)
        self.partition: Partition = unfreezing.partition_in_phase(
            self.student, settings.student, phase
        )
        self.losses = losses.from_config(settings)
        self.spec: StepSpec = step_spec(
            settings, self.student, self.partition.graphdef, self.losses, steps_per_epoch
        )
        self._train_step = jit_train_step(self.spec, mesh)

    def start(self) -> TrainState:
        return jax.tree.map(jnp.asarray, initial_state(self.spec, self.partition))

    def __call__(self, state: TrainState, *batch: Any) -> tuple[TrainState, dict[str, float]]:
        """One step from a copy of the state, and its metrics."""
        copy = jax.tree.map(lambda leaf: jnp.asarray(np.array(leaf)), state)
        after, metrics = self._train_step(copy, self.partition.frozen, *batch)
        return after, {name: float(value) for name, value in metrics.items()}


def batch_of(size: int, seed: int = 0) -> tuple[Batch, TeacherOutputs]:
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 2, (size, SIZE, SIZE, 1)).astype(np.float32)
    batch = Batch(
        images=jnp.asarray(rng.uniform(size=(size, SIZE, SIZE, 3)), jnp.float32),
        masks=jnp.asarray(masks),
        weights=jnp.ones(size),
        labelled=jnp.ones(size),
        ids=jnp.arange(size),
    )
    logits = 3 * masks - 1.5 + rng.normal(size=masks.shape)
    features = rng.normal(size=(size, SIZE // 8, SIZE // 8, 5))
    return batch, TeacherOutputs(
        jnp.asarray(logits, jnp.float32), (jnp.asarray(features, jnp.float32),)
    )
