"""A stage of check.py: convolutions by the forms that are to choose from on a GPU.

Convolutions of few channels, with 1, 2, 4 and more columns folded into channels, each with the
gradients of its input and of its weights; and depthwise convolutions between two activations, by
cuDNN, as sums of shifted slices, and as such sums of a map that is in memory.

Times are those of the kernels in JAX's profiler, since launching takes as long as the shortest of
them does. On a CPU, where it lists none, they are of the clock.
"""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import kernels
import kit as kits
import numpy as np
import results
from jax import lax

from jaxdistill.ops import depthwise, folding
from jaxdistill.ops.padding import Padding


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

_CALLS = 3

Form = Callable[..., jax.Array]
Parts = dict[str, tuple]
"""By the name of a part, such as `value`: a function and its arguments."""


def main() -> None:
    """Times every form in both precisions."""
    kit, _ = kits.opened()
    scale = _FULL // kit.networks[0]["side"]
    for operation in (*DEPTHWISE, *CONVOLUTIONS):
        smaller = operation._replace(side=operation.side // scale)
        for precision in ("float32", "bfloat16"):
            about = {"operation": str(smaller), "precision": precision}
            forms = _depthwise if isinstance(smaller, Depthwise) else _convolution
            try:
                found = _microseconds(forms(smaller, precision))
            except Exception as error:
                results.record_error("form", error, **about)
                continue
            for form, us in found.items():
                results.record("form", **about, batch=_BATCH, form=form, us=us)


def _convolution(each: Convolution, precision: str) -> dict[str, Parts]:
    padding = ((1, 1), (1, 1))
    x = _noise(precision, _BATCH, each.side, each.side, each.inputs)
    kernel = _noise(precision, each.size, each.size, each.inputs, each.outputs)
    dy = _noise(precision, _BATCH, each.side // each.stride, each.side // each.stride, each.outputs)
    forms: dict[str, Parts] = {}
    for columns in each.columns:
        if each.side % (columns * each.stride):  # of a rehearsal's small map
            continue
        form: Form = partial(_plain, each.stride, padding)
        if columns > 1:
            fold = folding.fold_of(columns, each.size, each.stride, padding[1][0])
            form = partial(folding.folded_by, fold=fold, stride=each.stride, padding=padding)
        forms[f"columns: {columns}"] = {
            "value": (form, x, kernel),
            "input_gradient": (partial(_input_gradient, form, x), kernel, dy),
            "weight_gradient": (partial(_weight_gradient, form, kernel), x, dy),
        }
    return forms


def _plain(stride: int, padding: Padding, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _input_gradient(form: Form, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
    return _pulled(lambda x: form(x, kernel), x, dy)


def _weight_gradient(form: Form, kernel: jax.Array, x: jax.Array, dy: jax.Array) -> jax.Array:
    return _pulled(partial(form, x), kernel, dy)


def _depthwise(each: Depthwise, precision: str) -> dict[str, Parts]:
    padding = ((each.size // 2,) * 2,) * 2
    x = _noise(precision, _BATCH, each.side, each.side, each.channels)
    kernel = _noise(precision, each.size, each.size, 1, each.channels)

    def between(form: Form, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.nn.silu(form(jax.nn.silu(x), kernel, each.stride, padding))

    def of_finished(x: jax.Array, *rest: Any) -> jax.Array:
        return depthwise.shifted(lax.optimization_barrier(x), *rest)

    forms = {
        "cuDNN": depthwise.plain,
        "slices": depthwise.shifted,
        "slices of a finished map": of_finished,
    }
    return {name: {"value": (partial(between, form), x, kernel)} for name, form in forms.items()}


def _microseconds(forms: dict[str, Parts]) -> dict[str, dict[str, float]]:
    """Returns the microseconds of a call by form and part."""
    programs = {}
    for form, parts in forms.items():
        for part, (function, *arguments) in parts.items():
            function = _named(function, f"form_{len(programs)}")
            program = jax.jit(function).lower(*arguments).compile()
            programs[form, part] = (f"jit_form_{len(programs)}", program, arguments)
    clock = {key: _by_clock(program, values) for key, (_, program, values) in programs.items()}
    on_card = _by_profile({name: (program, each) for name, program, each in programs.values()})
    found: dict[str, dict[str, float]] = {form: {} for form in forms}
    for (form, part), (name, *_) in programs.items():
        found[form][part] = round(1e6 * (on_card[name] if on_card else clock[form, part]), 1)
    return found


def _named(function: Form, name: str) -> Form:
    def named(*arguments: jax.Array) -> jax.Array:
        return function(*arguments)

    named.__name__ = name  # by which the profiler tells programs apart
    return named


def _by_clock(program: Any, arguments: list[jax.Array]) -> float:
    jax.block_until_ready(program(*arguments))
    start = time.perf_counter()
    for _ in range(_CALLS):
        y = program(*arguments)
    jax.block_until_ready(y)
    return (time.perf_counter() - start) / _CALLS


def _by_profile(programs: dict[str, tuple]) -> Counter[str]:
    """Returns the seconds of a call's kernels by the program's name, empty on a CPU."""

    def calls() -> list[Any]:
        return [
            program(*arguments) for program, arguments in programs.values() for _ in range(_CALLS)
        ]

    seconds: Counter[str] = Counter()
    for kernel in kernels.profiled(calls):
        seconds[kernel.program] += kernel.seconds / _CALLS
    return seconds


def _pulled(form: Form, primal: jax.Array, dy: jax.Array) -> jax.Array:
    [gradient] = jax.linear_transpose(form, primal)(dy)
    return gradient


def _noise(precision: str, *shape: int) -> jax.Array:
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    return jnp.asarray(values, precision)


if __name__ == "__main__":
    main()
