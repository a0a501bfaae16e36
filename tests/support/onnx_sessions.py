"""Sessions of ONNX files, tried and ready."""

from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import OnnxSession


def opened(path, tensors=("mask",), size=None, image_size=(8, 12), threads=None):
    """Returns the session after it was tried on a black image."""
    session = OnnxSession(OnnxGraph(path), tensors, size, threads)
    session.shapes(session.input_size(image_size))
    return session


def as_on_a_gpu(session):
    """Takes whole batches, whose size is not known yet."""
    session._chunk = None
    session.known_shapes.clear()
    return session
