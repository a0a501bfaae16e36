"""Readers of networks and of their weights, as `hostile` has those of everything else."""

import functools
import io
import json
from pathlib import Path

import damage
import numpy as np
import onnx
import onnx_models
from hostile import READERS, Files, Reader, named, one_of, reader
from hypothesis import strategies as st

from jaxdistill import config, models
from jaxdistill.checkpoint import manager
from jaxdistill.checkpoint.best import best as best_of
from jaxdistill.checkpoint.integrity import fingerprint, with_digest
from jaxdistill.evaluation import predictor
from jaxdistill.losses import from_config as losses_of
from jaxdistill.models import unfreezing
from jaxdistill.models.parameters import flat_variables
from jaxdistill.teachers import onnx_session
from jaxdistill.training.step_spec import initial_state, step_spec

try:  # here, for it needs more room than a reader is given
    import torch

    from jaxdistill.torch_interop import checkpoints
except ImportError:
    torch = None

__all__ = ["READERS"]  # with those below among them


def torch_files(folder: Path) -> Reader:
    def saved(content: object, zipped: bool) -> bytes:
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        return file.getvalue()

    tensors = {"model.a": torch.ones(3, 2), "model.b": torch.ones(4).half()}
    sound = [saved({"state_dict": tensors, "epoch": 3}, zipped) for zipped in (True, False)]

    def read(place: Path) -> None:
        checkpoints.arrays_of(checkpoints.read(place / "teacher.pth"))

    return Reader("`.pth`", named("teacher.pth", damage.bytes_of(sound)), read, cost=3)


if torch is not None:
    reader(torch_files)


@reader
def networks(folder: Path) -> Reader:
    onnx_session.PATIENCE = 5
    plain = onnx_models.segmenter()
    stamped = onnx_models.segmenter(1, 64, 64)
    stamped.producer_name = "jaxdistill"
    about = {
        "input": {"dtype": "float32", "shape": [1, 3, 64, 64], "image_size": [64, 64]},
        "output": {"range": "logits"},
        "normalization": {"mean": [0, 0, 0], "std": [1, 1, 1], "done by": "the caller"},
    }
    onnx.helper.set_model_props(stamped, {name: json.dumps(v) for name, v in about.items()})
    sound = [plain.SerializeToString(), stamped.SerializeToString()]

    def card(text: str) -> bytes:
        model = onnx.ModelProto.FromString(sound[1])
        try:
            for entry in model.metadata_props:
                entry.value = json.dumps(json.loads(text)[entry.key])
        except (KeyError, TypeError, ValueError, RecursionError):
            model.metadata_props[0].value = text.encode("utf-8", "replace").decode()
        return model.SerializeToString()

    def read(place: Path) -> None:
        network = predictor.load(place / "network.onnx", output="logits", default_size=(64, 64))
        shape = network.logits(np.zeros((1, 64, 64, 3), np.uint8)).shape
        assert shape == (1, 64, 64, 1)

    hostile = st.one_of(
        damage.bytes_of(sound), graphs(plain), graphs(stamped), damage.json_of([about]).map(card)
    )
    return Reader("ONNX", named("network.onnx", hostile), read, cost=2)


@st.composite
def graphs(draw: st.DrawFn, sound: onnx.ModelProto) -> bytes:
    """The network with another wiring, other operations, attributes, shapes."""
    model = onnx.ModelProto()
    model.CopyFrom(sound)
    graph = model.graph
    sizes = st.sampled_from((-(2**63), -1, 0, 1, 2, 3, 7, 2**16, 2**31, 2**40, 2**63 - 1))
    operations = (
        "Relu",
        "Conv",
        "Add",
        "Expand",
        "Resize",
        "Loop",
        "Reshape",
        "Tile",
        "Pad",
        "Gemm",
    )
    names = ["image", "low", "inner", "deep", "score", "mask", "low_weight", "deep_weight", ""]
    for _ in range(draw(st.integers(1, 3))):
        node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
        tensor = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
        match draw(st.sampled_from(("op", "wire", "attribute", "shape", "type", "input", "opset"))):
            case "op":
                node.op_type = draw(st.sampled_from(operations))
            case "wire":
                place = draw(st.integers(0, len(node.input)))
                if place == len(node.input):
                    node.input.append(draw(st.sampled_from(names)))
                else:
                    node.input[place] = draw(st.sampled_from(names))
            case "attribute" if node.attribute:
                attribute = node.attribute[draw(st.integers(0, len(node.attribute) - 1))]
                for place in range(len(attribute.ints)):
                    attribute.ints[place] = draw(sizes)
            case "shape":
                tensor.dims[draw(st.integers(0, len(tensor.dims) - 1))] = draw(sizes)
            case "type":
                tensor.data_type = draw(st.integers(0, 30))
            case "input":
                sides = graph.input[0].type.tensor_type.shape.dim
                sides[draw(st.integers(0, len(sides) - 1))].dim_value = draw(sizes)
            case "opset":
                model.opset_import[0].version = draw(sizes)
    return model.SerializeToString()


def _with_new_digest(text: str) -> str:
    """Returns forged metadata, whose digest is right."""
    try:
        return json.dumps(
            with_digest({key: value for key, value in json.loads(text).items() if key != "digest"})
        )
    except (ValueError, AttributeError, RecursionError):
        return text


@reader
def checkpoint_folders(folder: Path) -> Reader:
    run = folder / "run"
    settings = config.check(
        {
            "run": str(run),
            "data": {"root": "coco", "image_size": [64, 64]},
            "losses": {"kl": 0, "mse": 0},
            "student": {"encoder": "tf_efficientnet_lite0", "decoder_channels": [4, 4, 4, 4, 4]},
        },
        "tests",
    )
    run.mkdir()
    (run / "config.yaml").write_text(config.dump(settings))
    # Building takes most of the time, and reads nothing of the run.
    models.build = functools.lru_cache(maxsize=4)(models.build)
    built = models.build(settings.student, seed=settings.seed, dtype=settings.precision)
    partition = unfreezing.partition_in_phase(built, settings.student, 0)
    state = initial_state(
        step_spec(settings, built, partition.graphdef, losses_of(settings), 1), partition
    )
    frozen = fingerprint(partition.frozen)
    with manager.Checkpoints(run, settings.checkpoints) as written:
        for step in (1, 2):
            metadata = {"progress": {"phase": 0}, "frozen": frozen, "validation": {}}
            written.save(state._replace(step=np.asarray(step)), metadata, step / 10)
    own = fingerprint(flat_variables(best_of(run).student))
    files = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    trees = [json.loads(path.read_bytes()) for path in files if path.name == "_METADATA"]
    metadata = [json.loads(path.read_bytes()) for path in files if path.name == "metadata"]

    def text(name: str, contents: st.SearchStrategy[str]) -> st.SearchStrategy[Files]:
        return named(f"run/checkpoints/2/{name}", contents)

    def read(place: Path) -> None:
        found = best_of(place / "run")
        assert fingerprint(flat_variables(found.student)) == own

    hostile = st.one_of(
        one_of(folder, files),
        text("state/_METADATA", damage.json_of(trees)),
        text("metadata/metadata", damage.json_of(metadata).map(_with_new_digest)),
    )
    return Reader("checkpoints", hostile, read, cost=50)
