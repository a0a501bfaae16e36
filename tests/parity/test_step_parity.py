"""Whole training steps against PyTorch: gradients, AdamW's moments, parameters, statistics.

In float64 all of it agrees to many digits, after five steps too: the mathematics is the same.
In float32 a ReLU whose input is nearly 0 may open on one side and stay shut on the other, and AdamW
turns a nearly vanishing gradient of either sign into a whole step. So there all numbers of a kind
are compared as one vector with PyTorch's float64 steps, from which PyTorch's own float32 lies as
far.
"""

# ruff: noqa: E402

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

import cases
from comparison import Parity
from double import in_float64, to_float64
from torch import Tensor
from torch_student import TorchStudent, Trainer

from jaxdistill import config
from jaxdistill.losses import from_config
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.models.parameters import Partition, partition
from jaxdistill.training.step import jit_train_step, loss_terms, weighted_total
from jaxdistill.training.step_spec import initial_state, step_spec
from jaxdistill.types import Batch, TeacherOutputs, Variables

STEPS_PER_EPOCH = 2  # so that five steps see three epochs' temperatures and learning rates
STEPS = 5
SHALLOW = ("encoder.conv_stem", "encoder.bn1", *(f"encoder.blocks.{i}" for i in range(5)))
CLASSIFIER = ("encoder.conv_head", "encoder.bn2")


class Case(NamedTuple):
    encoder: str = "timm-efficientnet-b0"
    channels: tuple[int, ...] = cases.SMALL
    size: tuple[int, int] = (32, 64)
    seed: int = 0
    frozen: tuple[str, ...] = ("encoder",)
    clip: float | None = 0.5
    float32: bool = True  # False where PyTorch's own lies a twentieth from its float64


CASES = [
    Case(),
    Case(size=(64, 64), seed=1),
    Case(size=(64, 96), seed=2, encoder="tf_efficientnet_lite0", clip=None),
    Case(seed=3, channels=(256, 128, 64, 32, 16)),
    # The encoder's last stages train, too: the deepest of back-propagations.
    Case(size=(64, 96), seed=4, frozen=(*SHALLOW, *CLASSIFIER), float32=False),
]


class Steps:
    """One case, on both sides, ready to take steps."""

    def __init__(self, case: Case) -> None:
        self.case, self.settings = case, settings_of(case)
        self.pairs = [Pair("encoder.3", 20, 24), Pair("decoder.1", 12, None)]
        self.student = cases.student(self.settings.student, self.pairs, case.seed)
        self.partition = partition(self.student, case.frozen)
        self.losses = from_config(self.settings)

    def batch(self, number: int) -> tuple[Batch, TeacherOutputs]:
        """In the precision that JAX is in, and in float32's numbers."""
        rng = np.random.default_rng([self.case.seed, number])
        height, width = self.case.size
        images = rng.uniform(size=(2, height, width, 3))
        masks = rng.integers(0, 2, (2, height, width, 1))
        logits = 3 * masks - 1.5 + rng.normal(size=masks.shape)
        features = [
            rng.normal(size=(2, height // 8, width // 8, pair.channels)) for pair in self.pairs
        ]
        images, masks, logits, *features = (
            jnp.asarray(array.astype(np.float32), jnp.float32)
            for array in (images, masks, logits, *features)
        )
        batch = Batch(images, masks, jnp.ones(2), jnp.ones(2), jnp.arange(2))
        return batch, TeacherOutputs(logits, tuple(features))

    def torch_batch(self, number: int, dtype: torch.dtype) -> tuple:
        batch, targets = self.batch(number)
        pictures, mask, teacher, *features = (
            cases.nchw(array).to(dtype)
            for array in (batch.images, batch.masks, targets.logits, *targets.features)
        )
        return pictures, mask, teacher, features

    def trainer(self, dtype: torch.dtype) -> Trainer:
        student = TorchStudent(self.settings.student, self.pairs)
        student.load(
            {**self.partition.params, **self.partition.batch_stats, **self.partition.frozen}
        )
        return Trainer(student.to(dtype), self.settings, set(student.names(self.partition.frozen)))

    def named(self, variables: Variables) -> dict[str, Tensor]:
        """Ours by PyTorch's names, without the counters that only PyTorch keeps."""
        named = TorchStudent(self.settings.student, self.pairs).names(variables)
        return {name: tensor for name, tensor in named.items() if "num_batches" not in name}


def settings_of(case: Case) -> config.Config:
    return config.Config(
        run="none",
        data=config.Data(root="none", image_size=case.size),
        student=config.Student(
            encoder=case.encoder, decoder_channels=case.channels, frozen=case.frozen
        ),
        teacher=config.Teacher(onnx="none"),
        detector=config.Detector(onnx="none"),
        features=(
            config.Feature(tensor="a", tap="encoder.3", hidden_channels=24),
            config.Feature(tensor="b", tap="decoder.1", hidden_channels=None, loss="cosine"),
        ),
        losses=config.Losses(temperature=config.Temperature(initial=3, final=1, schedule="cosine")),
        training=config.Training(
            epochs=3,
            learning_rate=1e-4,
            weight_decay=0.5,
            clip=config.Clip(norm=case.clip, per="all"),
        ),
    )


def our_gradients(steps: Steps) -> tuple[dict[str, Tensor], float]:
    """Of the first step, by PyTorch's names; and the loss."""
    batch, targets = steps.batch(0)
    graphdef, params, batch_stats, frozen = in_width(steps.partition)
    epochs = steps.settings.training.epochs

    @jax.jit
    def compute(parameters: Variables) -> tuple[jax.Array, Variables]:
        def objective(parameters: Variables) -> jax.Array:
            student = Partition(graphdef, parameters, batch_stats, frozen).merge()
            outputs = student(batch.images, train=True)
            terms = loss_terms(steps.losses, outputs, batch, targets, 0, epochs)
            return weighted_total(steps.losses, {k: v.mean() for k, v in terms.items()})

        return jax.value_and_grad(objective)(parameters)

    loss, gradients = compute(params)
    return steps.named(gradients), float(loss)


def our_steps(steps: Steps) -> Iterator[dict[str, dict[str, Tensor]]]:
    """All that changes, after each step, by kind and PyTorch's names."""
    taken = in_width(steps.partition)
    spec = step_spec(steps.settings, steps.student, taken.graphdef, steps.losses, STEPS_PER_EPOCH)
    step = jit_train_step(spec)
    state = jax.tree.map(lambda leaf: _counter(jnp.array(leaf)), initial_state(spec, taken))
    for number in range(STEPS):
        state, _ = step(state, taken.frozen, *steps.batch(number))
        adam = state.opt_state[1]
        yield {
            "parameters": steps.named(state.params),
            "first moments": steps.named(adam.mu),
            "second moments": steps.named(adam.nu),
            "running statistics": steps.named(state.batch_stats),
        }


def their_steps(steps: Steps, dtype: torch.dtype) -> Iterator[dict[str, dict[str, Tensor]]]:
    trainer = steps.trainer(dtype)
    for number in range(STEPS):
        trainer.step(*steps.torch_batch(number, dtype), epoch=number // STEPS_PER_EPOCH)
        yield trainer.everything()
        if (number + 1) % STEPS_PER_EPOCH == 0:
            trainer.schedule.step()


def in_width(taken: Partition) -> Partition:
    return Partition(taken.graphdef, *jax.tree.map(jnp.asarray, to_float64(tuple(taken[1:]))))


def _counter(leaf: jax.Array) -> jax.Array:
    """Counts in int64 where that is enabled, so that schedules are computed in float64."""
    return leaf.astype(int) if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf


def without_effect(gradients: dict[str, Tensor]) -> set[str]:
    """Biases that a BatchNorm takes away again: their float64 gradients are all rounding."""
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    names = {n for n, g in gradients.items() if float(g.abs().max()) < 1e-10 * largest}
    assert all(name.endswith(".bias") for name in names)
    return names


def less(arrays: dict[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    return {name: array for name, array in arrays.items() if name not in names}


@pytest.mark.slow  # what a step does with these gradients is in the fast suite
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_every_trainable_parameter(parity: Parity, case: Case) -> None:
    steps = Steps(case)
    single, double = (steps.trainer(dtype) for dtype in (torch.float32, torch.float64))
    theirs = single.gradients(*steps.torch_batch(0, torch.float32), epoch=0)
    exact = double.gradients(*steps.torch_batch(0, torch.float64), epoch=0)
    ours, loss = our_gradients(steps)
    with in_float64():
        ours_exact, loss_exact = our_gradients(steps)
    parity.check("step, float32: loss", {"": loss}, {"": single.loss.detach()}, 1e-4)
    parity.check("step, float64: loss", {"": loss_exact}, {"": double.loss.detach()}, 1e-9)

    idle = without_effect(exact)
    largest = max(float(gradient.abs().max()) for gradient in exact.values())
    assert all(float(ours[name].abs().max()) < 1e-6 * largest for name in idle)
    ours, ours_exact, theirs, exact = (less(a, idle) for a in (ours, ours_exact, theirs, exact))
    parity.check("step, float64: gradients", ours_exact, exact, 1e-6)
    if case.float32:
        parity.check_together("step, float32: gradients", ours, theirs, exact, 1e-3)
    if case == Case():  # small enough that no ReLU tells the two apart
        parity.check("step, float32: gradients, each parameter's", ours, theirs, 1e-3)


# Five float32 steps say nothing about moments: PyTorch's own lie a tenth from its float64 ones.
FLOAT32_AFTER = {
    1: {
        "parameters": 1e-3,
        "first moments": 1e-3,
        "second moments": 1e-3,
        "running statistics": 1e-4,
    },
    STEPS: {"parameters": 1e-3, "running statistics": 1e-3},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_all_that_steps_change(parity: Parity, case: Case) -> None:
    steps = Steps(case)
    with in_float64():
        ours_exact = list(our_steps(steps))
    runs = zip(
        our_steps(steps),
        ours_exact,
        their_steps(steps, torch.float32),
        their_steps(steps, torch.float64),
        strict=True,
    )
    for number, (ours, our_double, theirs, exact) in enumerate(runs, start=1):
        if number == 1:
            idle = without_effect(exact["first moments"])
        for kind in exact if number in FLOAT32_AFTER else ():
            item = f"{kind} after {number} step{'s' if number > 1 else ''}"
            versions = (run[kind] for run in (ours, our_double, theirs, exact))
            if "moments" in kind:
                versions = (less(version, idle) for version in versions)
            one, one_exact, other, other_exact = versions
            # PyTorch's clip adds 1e-6 to the norm.
            parity.check(f"{item}, float64", one_exact, other_exact, 1e-5)
            tolerance = FLOAT32_AFTER[number].get(kind)
            if tolerance and case.float32:
                parity.check_together(f"{item}, float32", one, other, other_exact, tolerance)
