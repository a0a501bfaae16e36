"""Runs a `.tflite` file in LiteRT: `python -m jaxdistill.litert_interop.reference FILE IMAGES OUT`.

It is a process of its own, because LiteRT trusts the files that it runs: one that was made to crash
it ends this process alone.
"""

import contextlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from jaxdistill.runtime.errors import WeightsError

_SECONDS = 300
_MEMORY = 2**33


def outputs(content: bytes, images: np.ndarray, name: str) -> np.ndarray:
    """Computes the output of a network in LiteRT, in a process of its own.

    Args:
      content: The `.tflite` file.
      images: Inputs (N, H, W, 3), of which each is computed alone.
      name: Name of the file, for messages.

    Returns:
      The first output, (N, H, W, C).

    Raises:
      WeightsError: LiteRT cannot run the file (`tflite-damaged`).
    """
    with tempfile.TemporaryDirectory() as folder:
        model, inputs, output = (Path(folder, part) for part in ("a.tflite", "in.npy", "out.npy"))
        model.write_bytes(content)
        np.save(inputs, images)
        try:
            subprocess.run(
                [sys.executable, "-m", __name__, model, inputs, output],
                check=True,
                capture_output=True,
                timeout=_SECONDS,
            )
            return np.load(io.BytesIO(output.read_bytes()), allow_pickle=False)
        except (subprocess.SubprocessError, OSError, ValueError):
            raise WeightsError(
                f"{name}: LiteRT cannot run this file; download it again", code="tflite-damaged"
            ) from None


def _main(model: str, inputs: str, output: str) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not everywhere
        import resource

        # A size inside the file could ask for any amount of memory.
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    [image_input], [result] = interpreter.get_input_details(), interpreter.get_output_details()
    computed = []
    for image in np.load(inputs, allow_pickle=False):
        interpreter.set_tensor(image_input["index"], image[None])
        interpreter.invoke()
        computed.append(interpreter.get_tensor(result["index"]))
    np.save(output, np.concatenate(computed))


if __name__ == "__main__":
    _main(*sys.argv[1:])
