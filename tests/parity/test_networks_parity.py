"""The networks against timm's and SMP's: taps, logits, projections, running statistics."""

# ruff: noqa: E402

from functools import cache

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

import cases
from comparison import Parity
from flax import nnx
from torch_original import projector
from torch_student import TorchStudent

from jaxdistill import config
from jaxdistill.losses.distillation import mse
from jaxdistill.models.parameters import flat_variables, merge, partition
from jaxdistill.models.projector import Generator, Projector
from jaxdistill.models.student import Student
from jaxdistill.torch_interop import checkpoints, flax_networks, parameter_names, smp_networks
from jaxdistill.torch_interop.encoder_sources import VARIANTS
from jaxdistill.types import Variables

SIZES = ((64, 64), (64, 96))
# Quick to compile, and between them all that sets variants apart: padding, eps, squeeze, widths.
QUICK = {"timm-efficientnet-b0", "timm-efficientnet-b2", "tf_efficientnet_lite0"}
QUICK |= {"mobilenetv3_small_100", "mobilenetv4_conv_small_050"}


def slow_unless(quick: bool, *values: object) -> object:
    return pytest.param(*values, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(
    ("encoder", "size", "seed"),
    [
        slow_unless(name in QUICK and size == (64, 96) and seed == 0, name, size, seed)
        for name in VARIANTS
        for size in SIZES
        for seed in (0, 1)
    ],
)
def test_taps_of_every_encoder(
    parity: Parity, encoder: str, size: tuple[int, int], seed: int
) -> None:
    ours = flax_networks.encoder(encoder)
    theirs = smp_networks.encoder(encoder)
    variables = cases.randomised(ours.variables, seed)
    tensors = parameter_names.to_torch({k: np.asarray(v) for k, v in variables.items()})
    theirs.load_state_dict(checkpoints.tensors_of(tensors))
    pictures = 4 * cases.pictures(2, size, seed) - 2
    taps = ours.run(variables, pictures)
    expected = smp_networks.feature_maps(theirs, ours.stages, cases.nchw(pictures))
    parity.check(
        f"taps of `{encoder}`",
        {f"tap {i}": tap for i, tap in enumerate(taps, start=1)},
        {f"tap {i}": cases.nhwc(tap) for i, tap in enumerate(expected, start=1)},
        1e-4,
    )


@cache
def compiled(encoder: str, train: bool, frozen: tuple[str, ...]) -> tuple[Student, object]:
    """A student, and its jitted logits, taps and variables afterwards."""
    student = cases.student(config.Student(encoder=encoder, decoder_channels=cases.SMALL))
    graph = partition(student, frozen).graphdef if frozen else nnx.graphdef(student)

    @jax.jit
    def run(variables, pictures):
        alive = merge(graph, variables)
        taps = alive.taps(pictures, train=train)
        return alive.head(taps["decoder.4"]), taps, flat_variables(alive)

    return student, run


@pytest.mark.parametrize(
    ("encoder", "mode", "size", "seed"),
    [
        slow_unless(name == "timm-efficientnet-b0" and size == (64, 96) and not seed, *case)
        for name in ("timm-efficientnet-b0", "tf_efficientnet_b0", "tf_efficientnet_lite0")
        for mode in ("eval", "train", "train, encoder frozen")
        for size in SIZES
        for seed in (0, 1)
        if (case := (name, mode, size, seed))
    ],
)
def test_whole_student(
    parity: Parity, encoder: str, mode: str, size: tuple[int, int], seed: int
) -> None:
    train, frozen = mode != "eval", ("encoder",) if "frozen" in mode else ()
    student, run = compiled(encoder, train, frozen)
    variables = cases.randomised(flat_variables(student), seed)
    pictures = cases.pictures(3, size, seed)
    logits, taps, after = run(variables, pictures)

    theirs = TorchStudent(config.Student(encoder=encoder, decoder_channels=cases.SMALL), ())
    theirs.load(variables).train(train)
    if frozen:
        theirs.unet.encoder.eval()
    with torch.no_grad():
        their_logits, their_taps = theirs.feature_maps(cases.nchw(pictures))
    parity.check(
        f"student, {mode}: logits and taps",
        {"logits": logits, **taps},
        {"logits": cases.nhwc(their_logits), **{k: cases.nhwc(v) for k, v in their_taps.items()}},
        1e-4,
    )
    if train:
        statistics = [k for k in theirs.state_dict() if "running" in k]
        named = theirs.names(after)
        parity.check(
            f"student, {mode}: running statistics",
            {name: named[name] for name in statistics},
            {name: theirs.state_dict()[name] for name in statistics},
            1e-4,
        )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_block_that_restores_what_was_masked(parity: Parity, seed: int) -> None:
    """Masked generative distillation: the loss, and its gradient on everything before it."""
    blank = Generator(6, 0.75, rngs=nnx.Rngs(seed))
    variables = cases.randomised(flat_variables(blank), seed)
    own, target = np.random.default_rng(seed).normal(size=(2, 2, 8, 12, 6)).astype(np.float32)
    key = jax.random.key(seed)

    def ours(variables: Variables, own: jax.Array) -> jax.Array:
        return mse(merge(nnx.graphdef(blank), variables)(own, key), target).mean()

    found = jax.grad(ours, argnums=(0, 1))(variables, jax.numpy.asarray(own))

    block = torch.nn.ModuleDict({f"conv{i}": torch.nn.Conv2d(6, 6, 3, padding=1) for i in (1, 2)})
    block.load_state_dict(
        {k: torch.from_numpy(np.array(v)) for k, v in parameter_names.to_torch(variables).items()}
    )
    pictures = cases.nchw(own).requires_grad_()
    kept = cases.nchw(np.array(jax.random.bernoulli(key, 0.25, (2, 8, 12, 1)), np.float32))
    restored = block["conv2"](block["conv1"](pictures * kept).relu())
    expected = torch.nn.functional.mse_loss(restored, cases.nchw(target))
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
    parity.check(
        "masked generation: loss and gradients",
        {"loss": ours(variables, own), "tap": found[1], **parameter_names.to_torch(found[0])},
        {"loss": expected.detach(), "tap": cases.nhwc(pictures.grad), **gradients},
        1e-4,
    )


@pytest.mark.parametrize("hidden", [None, 24])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_projector(parity: Parity, hidden: int | None, train: bool, seed: int) -> None:
    blank = Projector(40, 20, hidden, rngs=nnx.Rngs(seed))
    variables = cases.randomised(flat_variables(blank), seed)
    features = np.random.default_rng(seed).normal(size=(2, 8, 12, 40)).astype(np.float32)
    layers = {"hidden": "0", "norm": "1", "output": "3" if hidden else "0"}
    tensors = {}
    for name, array in parameter_names.to_torch(variables).items():
        layer, _, leaf = name.partition(".")
        tensors[f"{layers[layer]}.{leaf}"] = torch.from_numpy(np.array(array))
    theirs = projector(40, 20, hidden).train(train)
    theirs.load_state_dict(tensors)

    ours = merge(nnx.graphdef(blank), variables)
    projected = ours(jax.numpy.asarray(features), train=train)
    expected = theirs(cases.nchw(features))
    found, wanted = {"projected": projected}, {"projected": cases.nhwc(expected)}
    if hidden:
        found |= {"mean": ours.norm.mean[...], "var": ours.norm.var[...]}
        wanted |= {"mean": theirs[1].running_mean, "var": theirs[1].running_var}
    parity.check(f"projector, {'train' if train else 'eval'}", found, wanted, 1e-4)
