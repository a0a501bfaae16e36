"""Our ONNX graph against the same student exported from SMP through torch."""

# ruff: noqa: E402

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

import jax.numpy as jnp
from flax import nnx

from jaxdistill import config
from jaxdistill.exporters.onnx_graph import Form, student_graph
from jaxdistill.models import student
from jaxdistill.models.parameters import flat_variables, merge
from jaxdistill.torch_interop import parameter_names, smp_networks
from jaxdistill.types import Variables

CHANNELS = (32, 24, 16, 12, 8)
# How torch and we write what is the same operation.
SYNONYMS = {"ReduceMean": "GlobalAveragePool"}


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["timm-efficientnet-b0", "tf_efficientnet_lite0"])
def test_our_graph_equals_torch_s(encoder: str, tmp_path: Path) -> None:
    settings = config.Student(encoder=encoder, decoder_channels=CHANNELS)
    blank = student.build(settings)
    variables = randomised(flat_variables(blank))
    ours = student_graph(merge(nnx.graphdef(blank), variables), Form(size=(64, 96)))

    network = smp_networks.unet(encoder, CHANNELS)
    tensors = parameter_names.to_torch({name: np.array(v) for name, v in variables.items()})
    network.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items()}, strict=True)
    path = tmp_path / "torch.onnx"
    picture = np.random.default_rng(1).normal(size=(1, 3, 64, 96)).astype(np.float32)
    with smp_networks.quiet():
        torch.onnx.export(network, (torch.from_numpy(picture),), path, dynamo=True, verbose=False)
    theirs = onnx.load(path)

    wanted, given = (run(model, picture) for model in (theirs, ours))
    assert wanted.std() > 0.05
    assert np.abs(given - wanted).max() < 1e-4
    assert operations(ours) == operations(theirs)


def randomised(variables: Variables) -> Variables:
    """No scale, shift or statistic of a BatchNorm is left where it would not show."""
    random = np.random.default_rng(0)
    changed = dict(variables)
    for path, value in variables.items():
        match path.rpartition(".")[2]:
            case "scale" | "var":
                changed[path] = jnp.asarray(random.uniform(0.6, 1.5, value.shape), "float32")
            case "bias" | "mean":
                changed[path] = jnp.asarray(random.normal(0, 0.2, value.shape), "float32")
    return changed


def run(model: onnx.ModelProto, picture: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: picture})[0]


def operations(model: onnx.ModelProto) -> Counter[str]:
    return Counter(SYNONYMS.get(node.op_type, node.op_type) for node in model.graph.node)
