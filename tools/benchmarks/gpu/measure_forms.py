"""A stage of check.py: convolutions by the forms that are to choose from on a GPU.

Convolutions of few channels, with 1, 2, 4 and more columns folded into channels, each with the
gradients of its input and of its weights; and depthwise convolutions between two activations, by
cuDNN, as sums of shifted slices, and as such sums of a map that is in memory.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import kit as kits
import numpy as np
import results
import step_program
from jax import lax

from jaxdistill.ops import depthwise, folding


class Convolution(NamedTuple):
    """A convolution of the specified student's decoder."""

    side: int
    """Height and width of its map at full size."""
    inputs: int
    outputs: int
    size: int
    stride: int
    columns: tuple[int, ...]
    """Numbers of columns that become one."""

    def __str__(self) -> str:
        kind = f"{self.size}x{self.size} of stride {self.stride}"
        return f"{kind}, {self.inputs} to {self.outputs} channels, {self.side}x{self.side}"


class Depthwise(NamedTuple):
    """A depthwise convolution of its encoder."""

    side: int
    channels: int
    size: int
    stride: int

    def __str__(self) -> str:
        kind = f"depthwise {self.size}x{self.size} of stride {self.stride}"
        return f"{kind}, {self.channels} channels, {self.side}x{self.side}"


CONVOLUTIONS = (
    Convolution(640, 16, 16, 3, 1, (1, 2, 4, 8)),
    Convolution(640, 16, 1, 3, 1, (1, 4, 8, 16)),
    Convolution(640, 16, 32, 4, 2, (1, 2, 4)),
    Convolution(320, 32, 32, 3, 1, (1, 2, 4)),
    Convolution(320, 32, 64, 4, 2, (1, 2)),
    Convolution(160, 64, 64, 3, 1, (1, 2)),
)
DEPTHWISE = (
    Depthwise(320, 32, 3, 1),
    Depthwise(320, 96, 3, 2),
    Depthwise(160, 144, 3, 1),
    Depthwise(160, 144, 5, 2),
    Depthwise(80, 240, 5, 1),
    Depthwise(40, 672, 5, 1),
    Depthwise(20, 1152, 5, 1),
)
_FULL = 640  # the size that the maps above belong to
_BATCH = 4

Form = Callable[..., jax.Array]


def main() -> None:
    """Times every form in both precisions."""
    kit, _ = kits.opened()
    scale = _FULL // kit.networks[0]["side"]
    for precision in ("float32", "bfloat16"):
        for each in CONVOLUTIONS:
            _measure_convolution(kit, each._replace(side=each.side // scale), precision)
        for one in DEPTHWISE:
            _measure_depthwise(kit, one._replace(side=one.side // scale), precision)


def _measure_convolution(kit: kits.Kit, each: Convolution, precision: str) -> None:
    padding = ((1, 1), (1, 1))
    x = _noise(precision, _BATCH, each.side, each.side, each.inputs)
    kernel = _noise(precision, each.size, each.size, each.inputs, each.outputs)
    dy = _noise(precision, _BATCH, each.side // each.stride, each.side // each.stride, each.outputs)
    for columns in each.columns:
        if each.side % (columns * each.stride):
            continue
        fold = folding.fold_of(columns, each.size, each.stride, 1) if columns > 1 else None

        def form(x: jax.Array, kernel: jax.Array, fold: folding.Fold | None = fold) -> jax.Array:
            return folding.folded_by(fold, x, kernel, each.stride, padding)

        _record(
            kit,
            {"operation": str(each), "form": f"{columns} columns", "precision": precision},
            value=(form, x, kernel),
            input_gradient=(
                lambda k, dy, form=form: _pulled(lambda x: form(x, k), x, dy),
                kernel,
                dy,
            ),
            weight_gradient=(lambda x, dy, form=form: _pulled(partial(form, x), kernel, dy), x, dy),
        )


def _measure_depthwise(kit: kits.Kit, each: Depthwise, precision: str) -> None:
    padding = ((each.size // 2,) * 2,) * 2
    x = _noise(precision, _BATCH, each.side, each.side, each.channels)
    kernel = _noise(precision, each.size, each.size, 1, each.channels)
    forms: dict[str, Form] = {
        "cuDNN": depthwise.plain,
        "slices": depthwise.shifted,
        "slices of a finished map": lambda x, *rest: depthwise.shifted(
            lax.optimization_barrier(x), *rest
        ),
    }
    for name, form in forms.items():

        def between(x: jax.Array, kernel: jax.Array, form: Form = form) -> jax.Array:
            return jax.nn.silu(form(jax.nn.silu(x), kernel, each.stride, padding))

        about = {"operation": str(each), "form": name, "precision": precision}
        _record(kit, about, value=(between, x, kernel))


def _record(kit: kits.Kit, about: dict[str, object], **programs: tuple) -> None:
    try:
        microseconds = {
            name: round(1e3 * _milliseconds(kit, function, arguments), 1)
            for name, (function, *arguments) in programs.items()
        }
        results.record("form", **about, us=microseconds)
    except Exception as error:
        results.record_error("form", error, **about)


def _milliseconds(kit: kits.Kit, function: Form, arguments: list[jax.Array]) -> float:
    program = jax.jit(function).lower(*arguments).compile()
    brief = dataclasses.replace(kit, seconds=min(kit.seconds, 0.05))
    return step_program.timed(lambda _: (None, program(*arguments)), None, brief)["ms"]


def _pulled(form: Form, primal: jax.Array, dy: jax.Array) -> jax.Array:
    [gradient] = jax.linear_transpose(form, primal)(dy)
    return gradient


def _noise(precision: str, *shape: int) -> jax.Array:
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    return jnp.asarray(values, precision)


if __name__ == "__main__":
    main()
