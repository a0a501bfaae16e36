"""Conversion of weights: nothing is lost, guessed, executed or written in part."""

# ruff: noqa: E402

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

import safetensors.torch
import timm
from conversions import CHANNELS, ENCODER, Convert, convert, randomised

from jaxdistill import models
from jaxdistill.data import image_ops
from jaxdistill.models import weights
from jaxdistill.models.encoders.efficientnet import VARIANTS
from jaxdistill.torch_interop import checkpoints, flax_networks, parameter_names, smp_networks

__all__ = ["convert"]  # a fixture


def error_line(capsys: pytest.CaptureFixture) -> str:
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def unet() -> dict[str, torch.Tensor]:
    return randomised(smp_networks.unet(ENCODER, CHANNELS)).state_dict()


@pytest.mark.parametrize("encoder", sorted(VARIANTS))
def test_every_tensor_of_a_unet_finds_its_place_and_comes_back(encoder: str) -> None:
    network = randomised(smp_networks.unet(encoder, CHANNELS))
    tensors = checkpoints.arrays_of(network.state_dict())
    expected = flax_networks.student(encoder, CHANNELS).variables
    variables = parameter_names.from_torch(tensors, expected, "unet")
    assert {path: array.shape for path, array in variables.items()} == {
        path: variable.shape for path, variable in expected.items()
    }
    back = parameter_names.to_torch(variables)
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
    assert weights.parse_normalization(metadata["normalization"], student) == image_ops.resolve(
        "half"
    )
    assert arrays["decoder.blocks.0.conv1.conv.kernel"].shape == (3, 3, 320 + 112, 16)
    assert models.from_weights(student).settings.decoder_channels == CHANNELS

    for suffix in (".pth", ".safetensors"):
        back = tmp_path / f"back{suffix}"
        assert convert("to-smp", student, back) == 0
        network = smp_networks.unet(ENCODER, CHANNELS)
        network.load_state_dict(checkpoints.read(back), strict=True)
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, unet[name]), name
    assert f"decoder_channels={list(CHANNELS)}" in capsys.readouterr().out

    again = tmp_path / "again.safetensors"
    assert convert("from-smp", tmp_path / "back.safetensors", again) == 0  # names its encoder
    assert weights.load(again)[1] == metadata | {"source": "back.safetensors"}
    for path, array in weights.load(again)[0].items():
        np.testing.assert_array_equal(array, arrays[path], err_msg=path, strict=True)


def test_the_file_that_is_read_is_not_replaced(
    tmp_path: Path, convert: Convert, unet: dict[str, torch.Tensor], capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "unet.safetensors"
    safetensors.torch.save_file(unet, path)
    before = path.read_bytes()
    assert convert("from-smp", path, path, "--encoder", ENCODER) == 2
    assert error_line(capsys).endswith("[output-exists]")
    assert path.read_bytes() == before


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
    message = error_line(capsys)
    assert message.endswith("[unsafe-pickle]")
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
    "missing.pth": (lambda path, tensors: None, "weights-missing", ""),
    "text.pth": (lambda path, tensors: path.write_text("hello"), "weights-damaged", ""),
    "empty.pth": (lambda path, tensors: path.write_bytes(b""), "weights-damaged", ""),
    "cut.pth": (_truncated, "weights-damaged", ""),
    "cut.safetensors": (_half_safetensors, "weights-damaged", ""),
    "list.pth": (lambda path, tensors: torch.save([1, 2], path), "not-a-state-dict", "list"),
    "number.pth": (
        lambda path, tensors: torch.save({"epoch": 1}, path),
        "not-a-state-dict",
        "'epoch'",
    ),
    "less.pth": (_without, "weights-mismatch", "1 missing (encoder.bn1.weight)"),
    "more.pth": (
        _with_more,
        "weights-mismatch",
        "1 left over (decoder.blocks.0.attention1.cSE.weight)",
    ),
    "classes.pth": (_two_classes, "not-an-smp-unet", "2 classes"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_does_not_fit_is_named_in_one_line(
    tmp_path: Path,
    convert: Convert,
    unet: dict[str, torch.Tensor],
    name: str,
    capsys: pytest.CaptureFixture,
) -> None:
    write, code, detail = FAULTS[name]
    write(tmp_path / name, unet)
    output = tmp_path / "out" / "student.safetensors"
    assert convert("from-smp", tmp_path / name, output, "--encoder", ENCODER) == 2
    message = error_line(capsys)
    assert message.endswith(f"[{code}]")
    assert name in message
    assert detail in message
    assert not output.exists()


def test_another_architecture_shows_the_keys_that_do_not_fit(
    tmp_path: Path, convert: Convert, unet: dict[str, torch.Tensor], capsys: pytest.CaptureFixture
) -> None:
    torch.save(unet, tmp_path / "unet.pth")
    output = tmp_path / "student.safetensors"
    command = ("from-smp", tmp_path / "unet.pth", output)
    assert convert(*command, "--encoder", "tf_efficientnet_b1") == 2
    message = error_line(capsys)
    assert message.endswith("[weights-mismatch]")
    assert "missing (encoder.blocks.0.0.se.conv_expand.bias; " in message
    assert convert(*command, "--encoder", "resnet50") == 2
    assert error_line(capsys).endswith("[encoder-not-convertible]")
    assert convert(*command) == 2
    assert error_line(capsys).endswith("[encoder-not-named]")
    assert not output.exists()


def test_a_decoder_of_another_depth_is_refused(
    tmp_path: Path, convert: Convert, capsys: pytest.CaptureFixture
) -> None:
    shallow = {f"decoder.blocks.{i}.conv1.0.weight": torch.zeros(8, 8, 3, 3) for i in range(4)}
    torch.save(shallow, tmp_path / "unet.pth")
    command = ("from-smp", tmp_path / "unet.pth", tmp_path / "student.safetensors")
    assert convert(*command, "--encoder", ENCODER) == 2
    assert error_line(capsys).endswith("[not-an-smp-unet]")


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
    assert error_line(capsys).endswith("[conversion-differs]")
    assert not output.exists()


def test_networks_that_give_no_number_do_not_agree(
    tmp_path: Path, convert: Convert, unet: dict[str, torch.Tensor], capsys: pytest.CaptureFixture
) -> None:
    """As those of a training that diverged."""
    broken = {**unet, "segmentation_head.0.bias": torch.tensor([float("nan")])}
    torch.save(broken, tmp_path / "unet.pth")
    output = tmp_path / "student.safetensors"
    assert convert("from-smp", tmp_path / "unet.pth", output, "--encoder", ENCODER) == 2
    assert error_line(capsys).endswith("[conversion-differs]")
    assert not output.exists()


def test_what_has_no_influence_may_be_missing_or_left_over(
    tmp_path: Path, convert: Convert, unet: dict[str, torch.Tensor]
) -> None:
    """Counters of BatchNorm, which a moving average may leave out, and a classifier of SMP's."""
    own = {name: each for name, each in unet.items() if not name.endswith("num_batches_tracked")}
    classifier = {"classification_head.3.weight": torch.ones(2, 320)}
    torch.save({**own, **classifier}, tmp_path / "unet.pth")
    output = tmp_path / "student.safetensors"
    assert convert("from-smp", tmp_path / "unet.pth", output, "--encoder", ENCODER) == 0


@pytest.mark.parametrize(
    ("encoder", "channels", "code"),
    [
        (ENCODER, (32, 16, 12, 8), "not-an-smp-unet"),
        ("mobilenetv3_small_100", (32, 16, 12, 8, 8), "encoder-not-convertible"),
    ],
)
def test_a_student_without_a_counterpart_in_smp_is_named(
    tmp_path: Path,
    convert: Convert,
    capsys: pytest.CaptureFixture,
    encoder: str,
    channels: tuple[int, ...],
    code: str,
) -> None:
    made = models.create("unet", encoder=encoder, decoder_channels=channels)
    models.save_weights(made, tmp_path / "student.safetensors")
    assert convert("to-smp", tmp_path / "student.safetensors", tmp_path / "unet.pth") == 2
    assert error_line(capsys).endswith(f"[{code}]")


def test_a_student_file_without_decoder_or_of_another_encoder_is_refused(
    tmp_path: Path, convert: Convert, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "encoder.safetensors"
    weights.save(path, {"encoder.conv_stem.kernel": np.ones((3, 3, 3, 32))}, {"encoder": ENCODER})
    assert convert("to-smp", path, tmp_path / "unet.pth") == 2
    assert error_line(capsys).endswith("[no-decoder]")
    assert convert("to-smp", tmp_path, tmp_path / "unet.pth") == 2
    assert error_line(capsys).endswith("[not-a-run]")


def test_a_mobilenet_of_timm_s_becomes_an_encoder(tmp_path: Path, convert: Convert) -> None:
    name = "mobilenetv3_small_050"
    network = randomised(timm.create_model(name))  # with its classifier
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    output = tmp_path / "encoder.safetensors"
    assert convert("encoder", tmp_path / "timm.pth", output, "--encoder", name) == 0
    arrays, metadata = weights.load(output)
    assert metadata["encoder"] == name
    assert weights.parse_normalization(metadata["normalization"], output) == image_ops.resolve(
        "imagenet"
    )
    np.testing.assert_array_equal(
        arrays["encoder.blocks.0.0.conv_dw.kernel"],
        network.blocks[0][0].conv_dw.weight.detach().numpy().transpose(2, 3, 1, 0),
    )
