"""Every loss and their total against PyTorch: value, and gradient where it reaches the student."""

# ruff: noqa: E402

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

import cases
import torch_original
import torch_student
from comparison import Parity
from torch import Tensor

from jaxdistill import config
from jaxdistill.losses import from_config
from jaxdistill.losses.distillation import kl, mse
from jaxdistill.losses.feature import cosine, cwd
from jaxdistill.losses.segmentation import bce, dice
from jaxdistill.training.step import loss_terms, weighted_total
from jaxdistill.types import Batch, ModelOutputs, TeacherOutputs

TEMPERATURES = (1.0, 3.0, 10.0)
SEEDS = (0, 1, 2)
SHAPES = ((3, 16, 16, 1), (2, 16, 24, 1))


def maps(seed: int, shape: tuple[int, ...], extreme: bool) -> tuple[np.ndarray, ...]:
    """Student logits, teacher logits, mask. Extreme ones are near +-50, on either side of it."""
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, 2, (2, *shape))
    if extreme:
        student += 50 * rng.choice([-1, 1], shape)
        teacher += 50 * rng.choice([-1, 1], shape)
    mask = rng.integers(0, 2, shape)
    return tuple(array.astype(np.float32) for array in (student, teacher, mask))


def compare(
    parity: Parity, item: str, ours: Callable, theirs: Callable, student: np.ndarray, dtype: object
) -> None:
    """Value, and gradient with respect to the student's array."""
    value, gradient = jax.value_and_grad(lambda s: ours(s).mean())(jnp.asarray(student))
    tensor = cases.nchw(student).to(dtype).requires_grad_()
    expected = theirs(tensor)
    expected.backward()
    parity.check(f"{item}: value", {"loss": value}, {"loss": expected.detach()}, 1e-4)
    wanted = {"gradient": cases.nhwc(tensor.grad)}
    parity.check(f"{item}: gradient", {"gradient": gradient}, wanted, 1e-4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_kl(
    parity: Parity, seed: int, temperature: float, extreme: bool, shape: tuple[int, ...]
) -> None:
    student, teacher, _ = maps(seed, shape, extreme)
    # At extreme logits the original's clamp bites, which ours has no need of.
    reference = torch_student.kl_without_clamp if extreme else torch_original.kl
    compare(
        parity,
        f"KL, {'logits near ±50, without clamp' if extreme else 'ordinary logits'}",
        lambda s: kl(s, jnp.asarray(teacher), temperature),
        lambda s: reference(s, cases.nchw(teacher), temperature),
        student,
        torch.float64 if extreme else torch.float32,
    )


ON_MAPS: dict[str, tuple[Callable, Callable]] = {
    "MSE": (
        lambda s, teacher, _: mse(s, teacher),
        lambda s, teacher, _: torch_original.mse(s, teacher),
    ),
    "BCE": (
        lambda s, _, mask: bce(s, mask),
        lambda s, _, mask: torch_original.bce(s, mask),
    ),
    "Dice": (
        lambda s, _, mask: dice(s, mask),
        lambda s, _, mask: torch_original.dice(s, mask),
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ON_MAPS)
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_of_maps(
    parity: Parity, seed: int, name: str, extreme: bool, shape: tuple[int, ...]
) -> None:
    ours, theirs = ON_MAPS[name]
    student, teacher, mask = maps(seed, shape, extreme)
    compare(
        parity,
        f"{name}, {'logits near ±50' if extreme else 'ordinary logits'}",
        lambda s: ours(s, jnp.asarray(teacher), jnp.asarray(mask)),
        lambda s: theirs(s, cases.nchw(teacher), cases.nchw(mask)),
        student,
        torch.float32,
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["mse", "cosine"])
def test_losses_of_features(parity: Parity, seed: int, name: str) -> None:
    projected, target = np.random.default_rng(seed).normal(size=(2, 2, 8, 12, 32)).astype("f4")
    compare(
        parity,
        f"feature loss, {name}",
        lambda own: {"mse": mse, "cosine": cosine}[name](own, jnp.asarray(target)),
        lambda own: getattr(torch_original, name)(own, cases.nchw(target)),
        projected,
        torch.float32,
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_channel_wise_distillation(parity: Parity, seed: int, temperature: float) -> None:
    projected, target = np.random.default_rng(seed).normal(0, 3, (2, 2, 8, 12, 32)).astype("f4")
    positions = cases.nchw(target).flatten(2) / temperature

    def theirs(own: Tensor) -> Tensor:
        own = (own.flatten(2) / temperature).log_softmax(-1)
        divergence = torch.nn.functional.kl_div(own, positions.softmax(-1), reduction="sum")
        return temperature**2 * divergence / (len(own) * own.shape[1])

    compare(
        parity,
        "feature loss, cwd",
        lambda own: cwd(own, jnp.asarray(target), temperature),
        theirs,
        projected,
        torch.float32,
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("scale", ["none", "t", "t2"])
def test_the_total_with_respect_to_logits_and_projected_features(
    parity: Parity, seed: int, temperature: float, scale: str
) -> None:
    settings = config.Config(
        run="none",
        data=config.Data(root="none"),
        teacher=config.Teacher(onnx="none"),
        detector=config.Detector(onnx="none"),
        features=(
            config.Feature(tensor="a", loss="mse", weight=0.7),
            config.Feature(tensor="b", loss="cosine", weight=0.4),
        ),
        losses=config.Losses(
            kl=1.0,
            mse=0.5,
            bce=0.5,
            dice=1.0,
            feature=0.5,
            kl_scale=scale,
            temperature=config.Temperature(initial=temperature, final=temperature),
        ),
    )
    terms_of = from_config(settings)
    student, teacher, mask = maps(seed, (2, 16, 24, 1), False)
    rng = np.random.default_rng(seed)
    own, target = (
        [rng.normal(size=(2, *size)).astype("f4") for size in ((2, 3, 32), (4, 6, 16))]
        for _ in range(2)
    )
    batch = Batch(None, jnp.asarray(mask), jnp.ones(2), jnp.ones(2), None)
    targets = TeacherOutputs(jnp.asarray(teacher), tuple(map(jnp.asarray, target)))

    def objective(logits: jax.Array, projected: tuple[jax.Array, ...]) -> jax.Array:
        outputs = ModelOutputs(logits, projected)
        values = loss_terms(terms_of, outputs, batch, targets, 0, 1)
        means = {name: value.mean() for name, value in values.items()}
        return weighted_total(terms_of, means)

    arguments = (jnp.asarray(student), tuple(map(jnp.asarray, own)))
    value, (to_logits, to_projected) = jax.value_and_grad(objective, argnums=(0, 1))(*arguments)

    logits, *projected = leaves = [cases.nchw(a).requires_grad_() for a in (student, *own)]
    # The original multiplies the divergence by T, and knows no other factor.
    factor = {"none": 1 / temperature, "t": 1.0, "t2": temperature}[scale]
    expected = torch_total(settings, leaves, mask, teacher, target, temperature, factor)
    expected.backward()
    parity.check("total loss: value", {"total": value}, {"total": expected.detach()}, 1e-4)
    parity.check(
        "total loss: gradients",
        {"logits": to_logits, "projected 0": to_projected[0], "projected 1": to_projected[1]},
        {
            "logits": cases.nhwc(logits.grad),
            "projected 0": cases.nhwc(projected[0].grad),
            "projected 1": cases.nhwc(projected[1].grad),
        },
        1e-4,
    )


def torch_total(
    settings: config.Config,
    leaves: list[Tensor],
    mask: np.ndarray,
    teacher: np.ndarray,
    target: list[np.ndarray],
    temperature: float,
    factor: float,
) -> Tensor:
    losses = settings.losses.model_copy(update={"kl": settings.losses.kl * factor})
    return torch_original.total(
        leaves[0],
        leaves[1:],
        cases.nchw(mask),
        cases.nchw(teacher),
        [cases.nchw(feature) for feature in target],
        settings.model_copy(update={"losses": losses}),
        temperature,
    )
