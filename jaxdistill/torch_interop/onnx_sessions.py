"""ONNX files in onnxruntime as anybody would run them: with its default settings, from NumPy.

`jaxdistill.teachers` runs them with other settings, to be faster beside a training step.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from onnxruntime import SessionOptions

from jaxdistill.teachers.onnx_graph import ImageInput, OnnxGraph

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


class Network(NamedTuple):
    """An open session and what its image input expects."""

    session: onnxruntime.InferenceSession
    picture: ImageInput

    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]:
        """The tensors (N, C, h, w) of normalised pictures (N, 3, H, W)."""
        return self.session.run(None, {self.picture.name: pictures})


def open_network(
    path: Path,
    tensors: Sequence[str] | None = None,
    threads: int | None = None,
    options: SessionOptions | None = None,
) -> Network:
    """The part of a file that these tensors need; the first output without any.

    Args:
      path: the ONNX file.
      tensors: names of the tensors to return; None returns the first output.
      threads: on a CPU; None leaves the number to onnxruntime.
      options: options of the session; None takes onnxruntime's defaults.

    Raises:
      UserError: see `OnnxGraph`.
    """
    graph = OnnxGraph(path)
    model, picture = graph.cut(tensors or graph.outputs[:1])
    options = options or SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.parent.resolve())
    )
    providers = [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
    if _PROVIDERS[0] in providers:
        onnxruntime.preload_dlls()
    return Network(onnxruntime.InferenceSession(model, options, providers=providers), picture)
