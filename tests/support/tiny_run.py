"""A run small enough for tests: pictures of bright discs, a teacher that finds what is bright."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser
from PIL import Image
from rich.console import Console

from jaxdistill import config
from jaxdistill.data import loader

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


def folder(root: Path, train: int = 8, validation: int = 5, side: int = 48) -> Path:
    """A folder in COCO's layout whose people are bright discs on a dark ground."""
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", train), ("val", validation)):
        images = root / "images" / f"{split}2017"
        images.mkdir(parents=True)
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
        for number in range(1, count + 1):
            rng = np.random.default_rng([number, train if split == "train" else 0])
            centre, radius = rng.uniform(16, side - 16, 2), rng.uniform(8, 14)
            angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            outline = centre + radius * np.stack([np.cos(angles), np.sin(angles)], -1)
            grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1) + 0.5
            disc = np.square(grid - centre).sum(-1) < radius**2
            pixels = rng.uniform(0, 90, (side, side, 3)) + 150 * disc[..., None]
            file = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
            (images / f"{number}.png").write_bytes(file.getvalue())
            content["images"].append(
                {"id": number, "file_name": f"{number}.png", "height": side, "width": side}
            )
            content["annotations"].append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": [outline.reshape(-1).tolist()],
                }
            )
        name = f"instances_{split}2017_person_only_no_crowd.json"
        (root / "annotations" / name).write_text(json.dumps(content))
    return root


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
    examples = loader.open_split(load(place).data, "train")
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
    folder(place / "coco")
    network(place / "network.onnx")
    return load(place)


def load(place: Path) -> config.Config:
    """The configuration of a folder that `make` made."""
    return config.load(SPECIFIED, overrides(place))
