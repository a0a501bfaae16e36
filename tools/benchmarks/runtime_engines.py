"""The runtimes that `runtimes.py` compares, each as a function that opens a student's file.

An engine takes a batch of one image as the file does: float32 in [0, 1], (1, 3, H, W) for `.onnx`
and (1, H, W, 3) for `.tflite`. It returns the probabilities, (H, W), and the seconds that the
runtime took. All of them compute in one thread. A new runtime is a function with a line in
`RUNTIMES`.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Engine = Callable[[np.ndarray], tuple[np.ndarray, float]]


class Refused(Exception):
    """A runtime cannot run a file."""


class Runtime(NamedTuple):
    """How a runtime is opened."""

    ending: str
    """Ending of the files that it runs."""
    open: Callable[[Path], Engine]
    """Opens a file."""
    module: str
    """The Python module, or the npm package, that it needs."""
    install: str
    """The command that installs it."""

    @property
    def missing(self) -> str | None:
        """How to install it; None where it is there."""
        if self.open is open_onnxruntime_web:
            found = shutil.which("node") is not None and _web_folder() is not None
        else:
            found = importlib.util.find_spec(self.module) is not None
        return None if found else self.install


def _timed(run: Callable[[], Any]) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    output = run()
    seconds = time.perf_counter() - began
    return np.asarray(output, np.float32).squeeze(), seconds


def open_onnxruntime(path: Path) -> Engine:
    """Opens a file in onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: _timed(lambda: session.run(None, {name: image})[0])


def open_openvino(path: Path) -> Engine:
    """Opens a file in OpenVINO, on the CPU."""
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",  # some CPUs would compute in bfloat16
    }
    model = openvino.Core().compile_model(path, "CPU", options)
    return lambda image: _timed(lambda: model(image)[0])


def open_opencv(path: Path) -> Engine:
    """Opens a file in OpenCV's DNN module."""
    import cv2

    cv2.setNumThreads(1)
    network = cv2.dnn.readNetFromONNX(str(path))

    def run(image: np.ndarray) -> Any:
        network.setInput(image)
        return network.forward()

    return lambda image: _timed(lambda: run(image))


def open_litert(path: Path) -> Engine:
    """Opens a file in LiteRT, with XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    [image_input], [output] = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image: np.ndarray) -> Any:
        interpreter.set_tensor(image_input["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    return lambda image: _timed(lambda: run(image))


def open_mediapipe(path: Path) -> Engine:
    """Opens a file in MediaPipe's Image Segmenter, which takes bytes and normalises them itself."""
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    content = _with_metadata(path.read_bytes())
    options = vision.ImageSegmenterOptions(BaseOptions(model_asset_buffer=content))
    segmenter = vision.ImageSegmenter.create_from_options(options)

    def engine(image: np.ndarray) -> tuple[np.ndarray, float]:
        pixels = np.ascontiguousarray((image[0] * 255).round().astype(np.uint8))
        made = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
        return _timed(lambda: segmenter.segment(made).confidence_masks[0].numpy_view().copy())

    weakref.finalize(engine, segmenter.close)
    return engine


def _with_metadata(content: bytes) -> bytes:
    """Returns a file with our metadata where it has none, as MediaPipe's older networks."""
    from ai_edge_litert import schema_py_generated as schema

    from jaxdistill.exporters import litert_metadata as metadata

    model = schema.Model.GetRootAs(content, 0)
    if model.MetadataLength():
        return content
    graph = model.Subgraphs(0)
    names = [graph.Tensors(side(0)).Name().decode() for side in (graph.Inputs, graph.Outputs)]
    described = metadata.segmenter_metadata(*names, metadata.Activation.NONE, (0.0, 1.0))
    return metadata.attach(content, described, {metadata.LABELS_FILE: "person\n"})


def open_onnxruntime_web(path: Path) -> Engine:
    """Opens a file in onnxruntime-web, in a process of Node."""
    script = Path(__file__).with_name("onnxruntime_web.mjs")
    process = subprocess.Popen(
        ["node", script, _web_folder() or ".", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    about = json.loads(process.stdout.readline() or '{"error": "node ended without a word"}')
    if "error" in about:
        process.wait()
        raise Refused(about["error"])
    pixels = int(np.prod(about["shape"])) // 3

    def engine(image: np.ndarray) -> tuple[np.ndarray, float]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(np.ascontiguousarray(image).tobytes())
        process.stdin.flush()
        answer = process.stdout.read(8 + 4 * pixels)
        if len(answer) < 8 + 4 * pixels:
            raise Refused("node ended")
        milliseconds = np.frombuffer(answer[:8], np.float64)[0]
        output = np.frombuffer(answer[8:], np.float32).reshape(image.shape[-2:])
        return output, float(milliseconds) / 1e3

    weakref.finalize(engine, process.communicate)  # closes its input, at which it ends
    return engine


def _web_folder() -> Path | None:
    """Returns the folder above `node_modules`: `ONNXRUNTIME_WEB`, or the current one."""
    for folder in (os.environ.get("ONNXRUNTIME_WEB"), "."):
        if folder and Path(folder, "node_modules", "onnxruntime-web").is_dir():
            return Path(folder).absolute()
    return None


RUNTIMES = {
    "onnxruntime": Runtime(".onnx", open_onnxruntime, "onnxruntime", "pip install onnxruntime"),
    "OpenVINO": Runtime(".onnx", open_openvino, "openvino", "pip install openvino"),
    "OpenCV DNN": Runtime(".onnx", open_opencv, "cv2", "pip install opencv-python-headless"),
    "onnxruntime-web": Runtime(
        ".onnx",
        open_onnxruntime_web,
        "onnxruntime-web",
        "npm install onnxruntime-web@1.30.0, and ONNXRUNTIME_WEB=FOLDER (needs Node 20)",
    ),
    "LiteRT": Runtime(".tflite", open_litert, "ai_edge_litert", "pip install 'jaxdistill[tflite]'"),
    "MediaPipe": Runtime(".tflite", open_mediapipe, "mediapipe", "pip install mediapipe"),
}
