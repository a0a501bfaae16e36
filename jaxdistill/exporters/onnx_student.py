"""An exported graph in onnxruntime."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from jaxtyping import Float, UInt8

from jaxdistill.config import Size
from jaxdistill.data import image_ops
from jaxdistill.data.image_ops import Normalization
from jaxdistill.exporters.onnx_graph import Form, caller_normalization
from jaxdistill.exporters.sampling import noise

Output = Float[np.ndarray, "n h w 1"]


class OnnxStudent:
    """Runs an exported graph on the CPU.

    Args:
      model: The serialised graph.
      form: Input and output of the graph.
      normalization: What the student expects, for a graph with normalised input.
    """

    def __init__(self, model: bytes, form: Form, normalization: Normalization) -> None:
        self.content = model
        self._form, self._normalization = form, normalization
        self._session = open_for_measuring(model)

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"]) -> Output:
        """Computes the output for images, one at a time.

        Args:
          images: RGB.

        Returns:
          Logits, or probabilities if the form has `sigmoid`.
        """
        inputs = graph_inputs(images, self._form, self._normalization)
        outputs = [self._session.run(None, {"image": image})[0] for image in inputs]
        return np.concatenate(outputs).transpose(0, 2, 3, 1)

    def probe(
        self, size: Size, options: onnxruntime.RunOptions | None = None
    ) -> Callable[[], object]:
        """Returns a function that runs the graph once on an image of noise.

        Args:
          size: Height and width of the image.
          options: onnxruntime's options of the run.
        """
        image = next(graph_inputs(noise(1, size).images, self._form, self._normalization))
        return lambda: self._session.run(None, {"image": image}, options)


def graph_inputs(
    images: UInt8[np.ndarray, "n h w 3"], form: Form, normalization: Normalization
) -> Iterator[np.ndarray]:
    """Converts images to inputs of a graph.

    Args:
      images: RGB.
      form: Input of the graph.
      normalization: What the student expects, for a graph with normalised input.

    Yields:
      Batches of one image.
    """
    for image in images[:, None]:
        if form.input == "uint8":
            yield image
            continue
        values = image.astype(np.float32) / 255
        if (by_caller := caller_normalization(form.input, normalization)) is not None:
            values = np.asarray(image_ops.normalize(values, by_caller))
        yield np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def open_for_measuring(model: bytes, folder: Path | None = None) -> onnxruntime.InferenceSession:
    """Opens a graph on the CPU, with the settings that its latency is measured with.

    Args:
      model: The serialised graph.
      folder: Folder of weights that are stored beside the graph's file; None: there are none.
    """
    # Threads that wait spin, which is onnxruntime's default. The teachers' sessions, opened by
    # `onnx_runtime.open_session`, do not, since the training step computes beside them. Latencies
    # depend on it, so that networks whose latencies are compared are all opened here.
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder.resolve())
        )
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
