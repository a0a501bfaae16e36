"""ONNX files in onnxruntime: our own exports, which describe themselves, and others."""

from pathlib import Path
from typing import get_args

from jaxdistill import config
from jaxdistill.config import Size
from jaxdistill.data import image_ops
from jaxdistill.evaluation.backend import Images, Logits, ModelOptions
from jaxdistill.runtime.errors import ConfigError, NetworkError
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_metadata import read_metadata
from jaxdistill.teachers.onnx_teacher import Onnx


class OnnxBackend:
    """A network of an ONNX file.

    Images of any size are resized to its input, and the mask is resized back.

    Args:
      path: The file.
      options: How to use the file; what is not given is taken from the file's own description.
      default_size: Input size of a file that neither fixes nor describes it.

    Raises:
      NetworkError: The file cannot be read or run; see `OnnxGraph` and `Onnx`.
      ConfigError: The options are not sufficient (`unknown-output-kind`, `unknown-input-size`).
    """

    def __init__(self, path: Path, options: ModelOptions, default_size: Size | None = None) -> None:
        graph = OnnxGraph(path, options.layout)  # refuses what onnxruntime should not see
        about = options.given
        if metadata := read_metadata(graph.path):
            about = {**metadata.description, **about}
            default_size = metadata.image_size or default_size
        kinds = get_args(config.OutputKind)
        if (kind := about.get("output")) not in kinds:
            missing = "neither the file nor an option states what the mask holds"
            raise ConfigError(
                f"{graph.path}: {missing if kind is None else f'unknown kind of output {kind!r}'}; "
                f"pass output (--output-kind) {', '.join(kinds[:-1])} or {kinds[-1]}",
                code="unknown-output-kind",
            )
        image = graph.cut([options.tensor or graph.outputs[0]]).input
        takes_bytes = image.dtype == "uint8"
        if metadata and metadata.takes_bytes != takes_bytes:
            raise NetworkError(
                f"{graph.path}: the description in the file says that its input is "
                f"{metadata.input.dtype}, but it is {image.dtype}; export it again",
                code="onnx-metadata",
            )
        about.setdefault("normalization", "bytes" if takes_bytes else "imagenet")
        self.size = options.size or _input_size(graph, image.height, image.width, default_size)
        self.fingerprint = graph.fingerprint
        self._network = Onnx(graph, **{**about, "size": self.size})
        self._network.output_shapes(self.size)  # opens and tries it, so that errors appear here
        [line] = self._network.describe()
        self.description = line.removeprefix("teacher: ")

    def logits(self, images: Images) -> Logits:
        """Returns the mask logits at the size of the images."""
        logits = self._network(image_ops.to_float(images)).logits
        assert logits is not None
        return logits


def _input_size(
    graph: OnnxGraph, height: int | None, width: int | None, default: Size | None
) -> Size:
    """Returns the size that the file fixes, completed by `default`."""
    if any(side is not None and not 0 < side <= config.LARGEST_SIDE for side in (height, width)):
        raise NetworkError(
            f"{graph.path}: the input is fixed to {height} x {width}, which is not a valid size",
            code="onnx-input-size",
        )
    if height and width:
        return height, width
    if default is None:
        raise ConfigError(
            f"{graph.path}: the file accepts images of any size; choose one with size (--size H W)",
            code="unknown-input-size",
        )
    return height or default[0], width or default[1]
