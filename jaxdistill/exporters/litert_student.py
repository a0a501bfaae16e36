"""An exported `.tflite` file in LiteRT, with the extra `tflite`."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxdistill.config import Size
from jaxdistill.exporters.registry import Input
from jaxdistill.exporters.sampling import noise


class LiteRTStudent:
    """Runs a file on the CPU.

    Args:
      content: The file.
      form: Its input, `unit` or `uint8`.
    """

    def __init__(self, content: bytes, form: Input) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.content, self._form = content, form
        self.interpreter: Any = Interpreter(model_content=content, num_threads=os.cpu_count())
        self.interpreter.allocate_tensors()
        [self.image], [self.output] = (
            self.interpreter.get_input_details(),
            self.interpreter.get_output_details(),
        )

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n h w 1"]:
        """Computes the output for images, one at a time.

        Args:
          images: RGB.

        Returns:
          Logits or probabilities, as the file was exported.
        """
        return np.concatenate([self._run(image) for image in file_inputs(images, self._form)])

    def probe(self, size: Size) -> Callable[[], object]:
        """Returns a function that runs the file once on an image of noise.

        Args:
          size: Height and width of the image, which are the file's.
        """
        image = next(file_inputs(noise(1, size).images, self._form))
        return lambda: self._run(image)

    def _run(self, image: np.ndarray) -> np.ndarray:
        self.interpreter.set_tensor(self.image["index"], image)
        self.interpreter.invoke()
        output: np.ndarray = self.interpreter.get_tensor(self.output["index"])
        return output


def file_inputs(images: UInt8[np.ndarray, "n h w 3"], form: Input) -> Iterator[np.ndarray]:
    """Converts images to inputs of a file.

    Args:
      images: RGB.
      form: `unit` or `uint8`.

    Yields:
      Batches of one image.
    """
    for image in images[:, None]:
        yield image if form == "uint8" else image.astype(np.float32) / 255
