"""Files with the mean of several exported networks."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import onnx
from jax.nn import sigmoid
from jaxtyping import UInt8
from rich.console import Console

from jaxdistill.config import Size
from jaxdistill.data import image_ops
from jaxdistill.exporters import verified_files, verify
from jaxdistill.exporters.latency import latencies
from jaxdistill.exporters.mean_graph import Input, Member, mean_graph, mean_size
from jaxdistill.exporters.model_card import MEAN_OF, mean_card, precision_of, stamp
from jaxdistill.exporters.onnx_graph import Form
from jaxdistill.exporters.onnx_student import OnnxStudent, Output, open_for_measuring
from jaxdistill.exporters.registry import Precision
from jaxdistill.exporters.verify import Row
from jaxdistill.runtime.errors import ConfigError, OutputError

_BY_BITS: tuple[Precision, ...] = ("int8", "float16", "float32")
_IMAGES = 4
_CELLS = 8


def average(
    members: Sequence[Member],
    output: str | Path,
    *,
    size: Size | None = None,
    input: Input = "unit",
    console: Console | None = None,
) -> None:
    """Writes the mean of several networks' probabilities as one ONNX file, with a model card.

    Args:
      members: The networks, two or more; see `mean_graph.read_member`.
      output: The file `NAME.onnx`; the card is `NAME.json`.
      size: Height and width of the mean's input; None: those of the largest member.
      input: `unit` takes float32 images (N, 3, H, W) in [0, 1], `uint8` bytes (N, H, W, 3).
      console: Where to print sizes and latencies; None prints nothing.

    Raises:
      ConfigError: There are fewer than two members (`too-few-members`), the output has another
        ending (`mean-ending`), or the members do not fit together; see `mean_graph`.
      ExportError: onnxruntime computes another mean with the file; see `verify.check`.
      OutputError: The file or its card cannot be written (`output-unwritable`), or would replace
        something else than an earlier mean (`output-exists`).
    """
    output = Path(output)
    if len(members) < 2:
        raise ConfigError(
            "a mean needs two networks at least; the same file may be a member twice, once "
            "mirrored",
            code="too-few-members",
        )
    if output.suffix != ".onnx":
        raise ConfigError(
            f"{output}: expected a name that ends in .onnx (or in .safetensors, for the mean of "
            f"the weights of runs)",
            code="mean-ending",
        )
    verified_files.check_folder(output.parent)
    verified_files.check_free(output)
    if output.exists() and not _is_mean(output):
        raise OutputError(
            f"{output} exists and is no mean of networks; the first name is that of the file to "
            f"write",
            code="output-exists",
        )
    size = mean_size(members, size)
    model = mean_graph(members, size, input)
    card = mean_card(model, members, size, input)
    stamp(model, card)
    content = model.SerializeToString()
    images = _images(size)
    form = Form(input, True, size)
    written = OnnxStudent(content, form, image_ops.resolve("unit"))
    found = written(images)
    expected = np.mean([_alone(member, images, size) for member in members], axis=0)
    seconds = latencies({"mean": written.probe(size)})["mean"]
    row = Row(
        len(content),
        seconds,
        verify.difference(expected, found),
        verify.changed(expected, found, form),
        None,
    )
    precisions = {precision_of(member.model) for member in members}
    # Members in fewer bits amplify the roundings before them, so that the coarsest decides.
    coarsest: Precision = next(name for name in _BY_BITS if name in precisions)
    verify.check(coarsest, row, row, form)
    measured = {"size": size, **row._asdict()}
    precision = "+".join(sorted(precisions))
    own = verified_files.write_file(output, precision, content, {**card, "measured": measured})
    if console:
        megabytes = f"{len(content) / 1e6:.2f} MB, {1e3 * seconds:.1f} ms per image"
        console.print(f"{output}: the mean of {len(members)} networks, {megabytes}; {own.name}")


def _is_mean(path: Path) -> bool:
    try:
        properties = onnx.load(path, load_external_data=False).metadata_props
    except Exception:  # of a file that is no ONNX model, protobuf raises errors of its own
        return False
    return any(each.key == "student" and MEAN_OF in each.value for each in properties)


def _alone(member: Member, images: UInt8[np.ndarray, "n h w 3"], size: Size) -> Output:
    """Computes a member's probabilities by itself, with the image operations of JAX."""
    x = image_ops.resize(jnp.asarray(images, jnp.float32) / 255, member.size or size)
    x = x[:, :, ::-1] if member.mirrored else x
    x = image_ops.normalize(x, member.normalization).transpose(0, 3, 1, 2)
    session = open_for_measuring(member.model.SerializeToString())
    found = session.run(None, {member.model.graph.input[0].name: np.asarray(x)})[0]
    y = jnp.asarray(found).transpose(0, 2, 3, 1)
    y = sigmoid(y) if member.logits else y
    y = y[:, :, ::-1] if member.mirrored else y
    return np.asarray(image_ops.resize(y, size))


def _images(size: Size) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns blurred noise, such that a mask in the wrong place is another mask."""
    cells = np.random.default_rng(0).integers(0, 256, (_IMAGES, _CELLS, _CELLS, 3), np.uint8)
    return np.stack([image_ops.resize_image(each, size) for each in cells])
