"""ONNX files in onnxruntime with its default settings, for comparisons and benchmarks.

`jaxdistill.teachers` runs them with other settings, which are faster beside a training step.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from onnxruntime import SessionOptions

from jaxdistill.teachers.network_format import ImageInput
from jaxdistill.teachers.onnx_graph import OnnxGraph

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


class Network(NamedTuple):
    """An ONNX network with one image input."""

    session: onnxruntime.InferenceSession
    """The session, which computes the chosen tensors."""
    image: ImageInput
    """The image input."""

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Computes the tensors (N, C, h, w).

        Args:
          images: Normalised images (N, 3, H, W).
        """
        return self.session.run(None, {self.image.name: images})


def open_network(
    path: Path,
    tensors: Sequence[str] | None = None,
    threads: int | None = None,
    options: SessionOptions | None = None,
) -> Network:
    """Opens the part of an ONNX file that is needed for some tensors.

    Args:
      path: The file.
      tensors: Names of the tensors; None takes the first output.
      threads: Number of threads on a CPU; None leaves it to onnxruntime.
      options: Further settings of the session.

    Raises:
      NetworkError: See `OnnxGraph`.
    """
    graph = OnnxGraph(path)
    model, image = graph.cut(tensors or graph.outputs[:1])
    options = options or SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.parent.resolve())
    )
    providers = [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
    if _PROVIDERS[0] in providers:
        onnxruntime.preload_dlls()
    return Network(onnxruntime.InferenceSession(model, options, providers=providers), image)
