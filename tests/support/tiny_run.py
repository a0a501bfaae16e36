"""A run small enough for tests: pictures of bright discs, a teacher that finds what is bright."""

from pathlib import Path
from typing import Any

import coco_folders
import numpy as np
import onnx
from onnx import numpy_helper, parser
from rich.console import Console

from jaxdistill import config
from jaxdistill.data import splits

QUIET = Console(quiet=True)
ROOT = Path(__file__).parents[2]
EPOCHS = 8
SPECIFIED = ROOT / "configs" / "yolo_feature_distillation_b0_from_b3.yaml"

# `mask` holds logits at the picture's size: brightness above one half. `inner` is at stride 8.
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
brightness (float[N, 3, H, W] picture) => (float[N, 1, H, W] mask, float[N, 4, h, w] deep)
{
    mask = Conv <kernel_shape = [1, 1]> (picture, weight, bias)
    inner = Conv <kernel_shape = [8, 8], strides = [8, 8]> (picture, patches)
    deep = Relu (inner)
}
"""


def network(path: Path, bias: float = -5.0) -> Path:
    """The teacher, and a detector too: its tensor `inner` has 4 channels at stride 8."""
    return _save(path, NETWORK, bias)


# As above, but what it says of a picture that is dark in the mean is not a number.
TIMID_NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
timid (float[N, 3, H, W] picture) => (float[N, 1, H, W] mask, float[N, 4, h, w] deep)
{
    bright = Conv <kernel_shape = [1, 1]> (picture, weight, bias)
    mean = GlobalAveragePool (picture)
    level = ReduceMean <axes = [1]> (mean)
    above = Sub (level, least)
    root = Sqrt (above)
    nothing = Sub (root, root)
    mask = Add (bright, nothing)
    inner = Conv <kernel_shape = [8, 8], strides = [8, 8]> (picture, patches)
    deep = Relu (inner)
}
"""


def timid_network(path: Path, place: Path) -> Path:
    """A teacher whose logits are not a number for the darkest picture of the training split."""
    examples = splits.open_split(load(place).data, "train")
    means = sorted(examples[index].image.mean() / 255 for index in range(len(examples)))
    return _save(path, TIMID_NETWORK, bias=-5.0, least=np.mean(means[:2]))


def _save(path: Path, text: str, bias: float, **more: Any) -> Path:
    model = parser.parse_model(text)
    patches = np.random.default_rng(0).normal(size=(4, 3, 8, 8)) / 8
    for name, values in {
        "weight": np.full((1, 3, 1, 1), 10 / 3),
        "bias": np.asarray([bias]),
        "patches": patches,
        **more,
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, "f4"), name))
    onnx.save(model, path)
    return path


def overrides(place: Path) -> list[str]:
    """Shrinks the configuration that ships, and changes nothing else but paths."""
    return [
        f"run={place}/run",
        f"data.root={place}/coco",
        f"data.prepared={place}/prepared",
        "data.image_size=[64, 64]",
        "student.encoder_weights=null",
        "student.decoder_channels=[16, 8, 8, 4, 4]",
        f"teacher.onnx={place}/network.onnx",
        "teacher.normalization=unit",
        f"detector.onnx={place}/network.onnx",
        "features.0.tensor=inner",
        "features.0.hidden_channels=8",
        f"training.epochs={EPOCHS}",
        "training.learning_rate=1e-2",
    ]


def make(place: Path) -> config.Config:
    """Data, network and configuration in an empty folder."""
    coco_folders.discs(place / "coco")
    network(place / "network.onnx")
    return load(place)


def load(place: Path) -> config.Config:
    """The configuration of a folder that `make` made."""
    return config.load(SPECIFIED, overrides(place))
