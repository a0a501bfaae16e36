"""Whatever finds people, ready to be used: the best student of a run, or an ONNX file.

An ONNX file of our own export carries with it what it eats and gives; of any other file the command
line has to say so.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx
from jaxtyping import Array, Float, UInt8
from pydantic import TypeAdapter

from jaxdistill import config
from jaxdistill.checkpoint import manager
from jaxdistill.checkpoint.manager import Best
from jaxdistill.config import OutputKind, Size
from jaxdistill.data import image_ops
from jaxdistill.data.image_ops import Normalization
from jaxdistill.exporters.onnx_graph import Form
from jaxdistill.exporters.onnx_student import OnnxStudent
from jaxdistill.models import check_image_size
from jaxdistill.models.parameters import flat_variables
from jaxdistill.runtime.errors import UserError
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_runtime import PATIENCE, within
from jaxdistill.teachers.onnx_teacher import Onnx, to_logits

Pictures = UInt8[np.ndarray, "b h w 3"]
Logits = Float[Array, "b h w 1"]


class Segmenter(NamedTuple):
    """A network and how to use it."""

    description: str
    """One line for people."""
    size: Size
    """Height and width of the pictures that suit it best."""
    fingerprint: str
    """SHA-256, in hexadecimal, of the run's student, or of the file."""
    logits: Callable[[Pictures], Logits]
    """Mask logits of RGB pictures, at the pictures' own size; positive is a person.

    A run's student takes pictures whose sides are multiples of 32; a file's network gets them
    resized to what it eats, and gives a mask that is resized back.
    """


class Given(NamedTuple):
    """What the command line says of an ONNX file; None: what the file says, if it does."""

    normalization: config.Normalization | None = None
    gives: OutputKind | None = None
    tensor: str | None = None
    size: Size | None = None


NOTHING = Given()
_SIZE = TypeAdapter(Size)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `given` reads."""
    group = parser.add_argument_group(
        "an ONNX file that our export did not write does not say what it eats and gives"
    )
    group.add_argument(
        "--gives", choices=("logits", "probabilities"), help="what the mask tensor holds"
    )
    group.add_argument(
        "--normalization",
        choices=("imagenet", "unit", "half"),
        help="what it expects of pixels in [0, 1] (default: imagenet)",
    )
    group.add_argument(
        "--tensor", metavar="NAME", help="the mask tensor (default: the file's first output)"
    )
    group.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="input size, where it is free"
    )


def given(arguments: argparse.Namespace) -> Given:
    """What was said by the options of `add_options`.

    Raises:
      UserError: a side is not positive.
    """
    size = tuple(arguments.size) if arguments.size else None
    if size and not all(0 < side <= config.LARGEST_SIDE for side in size):
        raise UserError(f"--size {size[0]} {size[1]}: expected positive numbers, such as 320 320")
    return Given(arguments.normalization, arguments.gives, arguments.tensor, size)


def load(path: Path, given: Given = NOTHING, otherwise: Size | None = None) -> Segmenter:
    """The network of a run's folder or of an ONNX file.

    Args:
      otherwise: the input size of a file that neither fixes nor knows it.

    Raises:
      UserError: neither of the two is there; the file does not say how to use it, and `given` does
        not either; or what `checkpoints.best` and `OnnxGraph` find wrong.
    """
    if path.is_dir():
        return of_run(manager.best(path), given)
    if path.suffix != ".onnx":
        raise UserError(f"{path.absolute()}: expected the folder of a run, or a file NAME.onnx")
    return of_onnx(path, given, otherwise)


def of_run(best: Best, given: Given = NOTHING) -> Segmenter:
    """The run's best student, in JAX.

    Raises:
      UserError: of a run only the size can be chosen, in multiples of 32.
    """
    if given._replace(size=None) != NOTHING:
        raise UserError(
            "a run knows what it eats and gives: --gives, --normalization and --tensor are for "
            "ONNX files"
        )
    height, width = size = given.size or best.settings.data.image_size
    check_image_size(best.student, size, "--size" if given.size else "data.image_size")
    forward = nnx.jit(lambda network, images: network(images, train=False).logits)
    description = (
        f"{best.settings.run}: the student after step {best.step}, "
        f"on {jax.devices()[0].device_kind}, pictures of {height} x {width}"
    )
    return Segmenter(
        description,
        size,
        manager.fingerprint(flat_variables(best.student)),
        lambda images: forward(best.student, image_ops.to_float(images)),
    )


def of_onnx(path: Path, given: Given = NOTHING, otherwise: Size | None = None) -> Segmenter:
    """The network of an ONNX file, in onnxruntime."""
    graph = OnnxGraph(path)  # refuses what onnxruntime should not see
    path = graph.path
    about = _about(path)
    if about is not None and about["input"]["dtype"] == "uint8":
        return _of_bytes(graph, about, given, otherwise)
    gives, normalization = given.gives, given.normalization
    if about is not None:
        gives = gives or _gives(about)
        normalization = normalization or _normalization(about)
    if gives is None:
        raise UserError(
            f"{path} does not say what it gives: --gives logits, or --gives probabilities"
        )
    tensor = given.tensor or graph.outputs[0]
    picture = graph.cut([tensor]).input
    size = given.size or _size(path, (picture.height, picture.width), about, otherwise)
    network = Onnx(
        graph, tensor=tensor, output=gives, normalization=normalization or "imagenet", size=size
    )
    network.output_shapes(size)  # tries it

    def logits(images: Pictures) -> Logits:
        found = network(image_ops.to_float(images)).logits
        assert found is not None
        return found

    [description] = network.describe()
    description = description.removeprefix("teacher: ")
    return Segmenter(description, size, graph.fingerprint, logits)


def _of_bytes(
    graph: OnnxGraph, about: dict[str, Any], given: Given, otherwise: Size | None
) -> Segmenter:
    """A file of our export that eats pictures as they are decoded."""
    path = graph.path
    if given._replace(size=None) != NOTHING:
        raise UserError(
            f"{path} says itself what it eats and gives: leave out --gives, --normalization and "
            "--tensor"
        )
    _, *sides, _ = about["input"]["shape"]
    fixed = tuple(side if isinstance(side, int) else None for side in sides)
    size = given.size or _size(path, fixed, about, otherwise)
    gives = _gives(about)
    form = Form("uint8", sigmoid=gives == "probabilities")
    try:
        network = OnnxStudent(graph.whole(), form, image_ops.resolve("unit"))
        with within(PATIENCE) as options:
            network.probe(size, options)()
    except UserError:
        raise
    except Exception as error:  # onnxruntime's errors have no base class of their own
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: onnxruntime cannot run it on pictures of {size[0]} x {size[1]}: {reason}"
        ) from None

    def logits(images: Pictures) -> Logits:
        fed = np.stack([image_ops.resize_image(image, size) for image in images])
        return to_logits(jnp.asarray(network(fed)), gives, images.shape[1:3])

    description = f"{path}, from pictures of {size[0]} x {size[1]} as they are"
    return Segmenter(description, size, graph.fingerprint, logits)


def _about(path: Path) -> dict[str, Any] | None:
    """What our export wrote into the file (`card.stamp`); None where somebody else wrote it."""
    model = onnx.load(path, load_external_data=False)
    if model.producer_name != "jaxdistill":
        return None
    try:
        stamped = {entry.key: entry.value for entry in model.metadata_props}
        about = {name: json.loads(stamped[name]) for name in ("input", "output", "normalization")}
        about["input"]["dtype"]
        _, *sides, _ = about["input"]["shape"]
        if about["input"]["dtype"] == "uint8" and len(sides) != 2:
            raise ValueError(f"shape {sides}")
        about["input"]["image_size"] = _SIZE.validate_python(about["input"]["image_size"])
        _gives(about)
        _normalization(about)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: its metadata are damaged ({reason}); export it again") from None
    return about


def _gives(about: dict[str, Any]) -> OutputKind:
    return "logits" if about["output"]["range"] == "logits" else "probabilities"


def _normalization(about: dict[str, Any]) -> config.Normalization:
    if about["normalization"]["done by"] == "the graph":
        return "unit"
    mean, std = (tuple(about["normalization"][name]) for name in Normalization._fields)
    return config.MeanStd(mean=mean, std=std)


def _size(
    path: Path,
    fixed: tuple[int | None, ...],
    about: dict[str, Any] | None,
    otherwise: Size | None,
) -> Size:
    """The file's own where it is fixed, else what it says that it was trained on."""
    height, width = fixed
    if any(side is not None and not 0 < side <= config.LARGEST_SIDE for side in fixed):
        raise UserError(f"{path}: its input is fixed to {height} x {width}, which is no size")
    if height and width:
        return height, width
    size = about["input"]["image_size"] if about else otherwise
    if size is None:
        raise UserError(f"{path} takes pictures of any size: choose one with --size H W")
    return height or size[0], width or size[1]
