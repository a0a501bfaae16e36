"""Real networks in every form, by configuration alone, against their own onnxruntime results."""

from pathlib import Path
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import real_variants

from jaxdistill import config
from jaxdistill.data import coco, image_ops
from jaxdistill.teachers import from_config

SIZE = 320
UNIT = ((0, 0, 0), (1, 1, 1))
IMAGENET = (real_variants.MEAN, real_variants.STD)


@pytest.fixture(scope="module")
def people(shared, tmp_path_factory) -> list[tuple[np.ndarray, np.ndarray]]:
    """The validation images and masks at 320 x 320."""
    prepared = tmp_path_factory.mktemp("prepared")
    data = coco(shared("data", "people"), image_size=SIZE, prepared=prepared).validation
    pairs = [data[index] for index in range(len(data))]
    return [
        (
            image_ops.resize_image(pair.image, (SIZE, SIZE)),
            image_ops.resize_mask(pair.mask, (SIZE, SIZE)) > 0,
        )
        for pair in pairs
    ]


def mean_iou(people: Any, predictions: Any) -> float:
    """The mean over images of the mean IoU of person and background, in NumPy."""
    scores = [
        np.mean([(a & b).sum() / (a | b).sum() for a, b in ((found, mask), (~found, ~mask))])
        for (_, mask), found in zip(people, predictions, strict=True)
    ]
    return float(np.mean(scores))


def by_configuration(teacher: Any, people: Any) -> float:
    tree = {
        "run": "run",
        "data": {"root": "data", "image_size": [SIZE, SIZE]},
        "teacher": teacher,
    }
    network = from_config(config.check(tree, "test"))
    found = [
        np.asarray(network(jnp.asarray(image[None] / np.float32(255))).logits)[0, ..., 0] > 0
        for image, _ in people
    ]
    return mean_iou(people, found)


def by_numpy(
    path: Path, people: Any, size: int, feed: dict[str, Any], mean: Any, std: Any
) -> list[np.ndarray]:
    """Returns the probabilities of each image."""
    session = onnxruntime.InferenceSession(path)
    [given, *_], found = session.get_inputs(), []
    for image, _ in people:
        pixels = cv2.resize(image.astype(np.float32) / 255, (size, size))
        pixels = (pixels - np.float32(mean)) / np.float32(std)
        if feed.get("bytes"):
            pixels = np.rint(pixels * 255).astype(np.uint8)
        pixels = pixels[..., feed.get("order", [0, 1, 2])][None]
        if feed.get("layout") != "nhwc":
            pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        if given.type == "tensor(float16)":
            pixels = pixels.astype(np.float16)
        mask = session.run([session.get_outputs()[0].name], {given.name: pixels})[0]
        mask = feed.get("mask", lambda mask: mask[0, 0])(mask).astype(np.float32)
        found.append(cv2.resize(mask, (SIZE, SIZE)))
    return found


def score(people: Any, probabilities: Any) -> float:
    return mean_iou(people, [each > 0.5 for each in probabilities])


def compare(name: str, ours: float, own: float) -> None:
    print(f"{name}: {ours:.4f}, by NumPy {own:.4f}")  # shown with -s
    assert ours == pytest.approx(own, abs=1e-3)
    assert ours > 0.9


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_the_selfie_network(shared, people, layout: str) -> None:
    path = shared("models", f"selfie_segmentation_{layout}.onnx")
    keys = {"output": "probabilities", "normalization": "unit", "size": [256, 256]}
    feed = {"layout": layout}
    if layout == "nhwc":
        feed["mask"] = lambda mask: mask[0, ..., 0]
    own = score(people, by_numpy(path, people, 256, feed, *UNIT))
    compare(f"selfie {layout}", by_configuration({"onnx": str(path), **keys}, people), own)


def floats16(path: Path, converter: str) -> onnx.ModelProto:
    if converter == "onnxruntime":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        return convert_float_to_float16(onnx.load(path))
    from onnxconverter_common.float16 import convert_float_to_float16

    return convert_float_to_float16(onnx.load(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        "plain",
        "float16 by onnxruntime",
        "float16 by onnxconverter_common",
        "two softmax channels",
        "argmax",
        "NHWC in and out",
        "uint8 NHWC",
        "BGR",
        "all axes named",
    ],
)
def test_u2netp_in_other_forms(shared, people, tmp_path: Path, form: str) -> None:
    plain = shared("models", "u2netp.onnx")
    keys, feed = {"output": "probabilities"}, {}
    path = tmp_path / "network.onnx"
    if form == "plain":
        path = plain
    elif form.startswith("float16"):
        onnx.save(floats16(plain, form.split()[-1]), path)
    else:
        model, keys, feed = real_variants.forms(plain, SIZE)[form]
        onnx.save(model, path)
    statistics = UNIT if feed.get("bytes") else IMAGENET
    own = score(people, by_numpy(path, people, SIZE, feed, *statistics))
    compare(f"u2netp, {form}", by_configuration({"onnx": str(path), **keys}, people), own)


@pytest.mark.slow
def test_two_networks_together(shared, people) -> None:
    """Of different input sizes and normalisations."""
    selfie, u2netp = (
        shared("models", "selfie_segmentation_nchw.onnx"),
        shared("models", "u2netp.onnx"),
    )
    soft = {"output": "probabilities"}
    teachers = [
        {"onnx": str(selfie), **soft, "normalization": "unit", "size": [256, 256]},
        {"onnx": str(u2netp), **soft},
    ]
    each = [
        by_numpy(selfie, people, 256, {}, *UNIT),
        by_numpy(u2netp, people, SIZE, {}, *IMAGENET),
    ]
    for weight in (1, 2):
        together = [(weight * a + b) / (weight + 1) for a, b in zip(*each, strict=True)]
        configured = [{**teachers[0], "weight": weight}, teachers[1]]
        ours = by_configuration(configured, people)
        compare(f"selfie {weight} : u2netp 1", ours, score(people, together))
