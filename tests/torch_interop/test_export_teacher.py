"""Export of teachers: equal to PyTorch at any batch and size, or no file at all."""

# ruff: noqa: E402

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

import onnxruntime
import segmentation_models_pytorch as smp
from safetensors.torch import save_file

from jaxdistill.commands.export_teacher import main
from jaxdistill.runtime.errors import command
from jaxdistill.torch_interop import export_teacher, smp_networks

CHANNELS = (24, 16, 16, 8, 8)
Export = Callable[..., int]


@pytest.fixture
def export() -> Export:
    return lambda *arguments: command(lambda: main([str(each) for each in arguments]))


def error_line(capsys: pytest.CaptureFixture) -> str:
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def teacher() -> torch.nn.Module:
    network = smp_networks.unet("timm-efficientnet-b0", CHANNELS)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


FORMS = {
    "top level": lambda tensors: tensors,
    "state_dict, model. before each": lambda tensors: {
        "state_dict": {f"model.{name}": tensor for name, tensor in tensors.items()},
        "epoch": 7,
    },
    "model_state_dict": lambda tensors: {"model_state_dict": tensors, "optimizer": {"lr": 1e-3}},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_checkpoint_runs_at_any_batch_and_size(
    tmp_path: Path, export: Export, teacher: torch.nn.Module, form: str
) -> None:
    torch.save(FORMS[form](teacher.state_dict()), tmp_path / "teacher.pth")
    output = tmp_path / "made" / "teacher.onnx"
    assert export(tmp_path / "teacher.pth", output, "--encoder", "timm-efficientnet-b0") == 0
    onnx.checker.check_model(output, full_check=True)
    session = onnxruntime.InferenceSession(output)
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    images = torch.randn(3, 3, 128, 32)
    with torch.inference_mode():
        expected = teacher(images).numpy()
    (logits,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert list(output.parent.iterdir()) == [output]


def test_a_size_can_be_fixed_and_metadata_name_the_encoder(
    tmp_path: Path, export: Export, teacher: torch.nn.Module
) -> None:
    path = tmp_path / "teacher.safetensors"
    save_file(teacher.state_dict(), path, {"encoder": "timm-efficientnet-b0"})
    assert export(path, tmp_path / "teacher.onnx", "--size", 64, 96, "--opset", 18) == 0
    (entry,) = onnxruntime.InferenceSession(tmp_path / "teacher.onnx").get_inputs()
    assert entry.shape == ["N", 3, 64, 96]
    assert onnx.load(tmp_path / "teacher.onnx").opset_import[0].version == 18


@pytest.mark.parametrize("encoder", ["resnet18", "tf_efficientnet_lite0"])
def test_any_encoder_of_smp_or_ours_is_exported(
    tmp_path: Path, export: Export, encoder: str
) -> None:
    torch.save(smp_networks.unet(encoder, CHANNELS[:4]).state_dict(), tmp_path / "teacher.pth")
    assert export(tmp_path / "teacher.pth", tmp_path / "t.onnx", "--encoder", encoder) == 0


def test_the_default_encoder_is_b3(tmp_path: Path, export: Export) -> None:
    with smp_networks.quiet():
        network = smp.Unet("timm-efficientnet-b3", encoder_weights=None, classes=1)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "teacher.pth")
    assert export(tmp_path / "teacher.pth", tmp_path / "teacher.onnx") == 0
    assert (tmp_path / "teacher.onnx").stat().st_size == pytest.approx(50.0e6, rel=0.05)


def test_another_architecture_shows_keys_of_both_sides(
    tmp_path: Path, export: Export, capsys: pytest.CaptureFixture
) -> None:
    torch.save(smp_networks.unet("resnet18", CHANNELS).state_dict(), tmp_path / "teacher.pth")
    assert export(tmp_path / "teacher.pth", tmp_path / "teacher.onnx") == 2
    message = error_line(capsys)
    assert message.endswith("[weights-mismatch]")
    assert "missing (encoder.blocks.0." in message
    assert "left over (encoder.conv1.weight;" in message
    assert "timm-efficientnet-b3 was expected, see --encoder" in message
    assert not (tmp_path / "teacher.onnx").exists()


class Payload:
    """Would leave a trace when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.trace),))


def test_bad_files_are_named_in_one_line_and_nothing_is_run_or_written(
    tmp_path: Path, export: Export, teacher: torch.nn.Module, capsys: pytest.CaptureFixture
) -> None:
    trace = tmp_path / "trace"
    torch.save({"state_dict": teacher.state_dict(), "hooks": Payload(trace)}, tmp_path / "evil.pth")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    (tmp_path / "text.pth").write_text("not weights")
    torch.save(teacher.state_dict(), tmp_path / "fine.pth")
    wrong_encoder = ("--encoder", "timm-eficientnet-b0")
    faults = {
        "missing.pth": ((), "weights-missing"),
        "evil.pth": ((), "unsafe-pickle"),
        "linear.pth": ((), "not-an-smp-unet"),
        "text.pth": ((), "weights-damaged"),
        "fine.pth": (wrong_encoder, "unknown-smp-encoder"),
    }
    for name, (options, code) in faults.items():
        assert export(tmp_path / name, tmp_path / "teacher.onnx", *options) == 2, name
        message = error_line(capsys)
        assert message.endswith(f"[{code}]")
        assert name in message or "did you mean timm-efficientnet-b0" in message
    assert not trace.exists()
    assert not (tmp_path / "teacher.onnx").exists()


def test_a_failure_of_torch_is_one_line(
    tmp_path: Path,
    export: Export,
    teacher: torch.nn.Module,
    capsys: pytest.CaptureFixture,
) -> None:
    torch.save(teacher.state_dict(), tmp_path / "teacher.pth")
    arguments = (tmp_path / "teacher.pth", tmp_path / "teacher.onnx")
    assert export(*arguments, "--encoder", "timm-efficientnet-b0", "--opset", "99") == 2
    assert error_line(capsys).endswith("[torch-export]")
    assert not (tmp_path / "teacher.onnx").exists()


def test_a_teacher_that_gives_no_number_is_not_written(
    tmp_path: Path, export: Export, teacher: torch.nn.Module, capsys: pytest.CaptureFixture
) -> None:
    broken = {**teacher.state_dict(), "segmentation_head.0.bias": torch.tensor([float("nan")])}
    torch.save(broken, tmp_path / "teacher.pth")
    arguments = (tmp_path / "teacher.pth", tmp_path / "teacher.onnx")
    assert export(*arguments, "--encoder", "timm-efficientnet-b0") == 2
    assert error_line(capsys).endswith("[conversion-differs]")
    assert not (tmp_path / "teacher.onnx").exists()


def test_nothing_is_written_where_onnxruntime_disagrees(
    tmp_path: Path,
    export: Export,
    teacher: torch.nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    torch.save(teacher.state_dict(), tmp_path / "teacher.pth")
    honest = export_teacher.to_onnx

    def of_another_network(network: torch.nn.Module, *arguments: object) -> bytes:
        content = honest(network, *arguments)
        network.segmentation_head[0].bias.data += 0.1
        return content

    monkeypatch.setattr(export_teacher, "to_onnx", of_another_network)
    arguments = (tmp_path / "teacher.pth", tmp_path / "teacher.onnx")
    assert export(*arguments, "--encoder", "timm-efficientnet-b0") == 2
    assert error_line(capsys).endswith("[conversion-differs]")
    assert not (tmp_path / "teacher.onnx").exists()


def test_a_teacher_is_written_to_an_onnx_file_only(
    tmp_path: Path, export: Export, teacher: torch.nn.Module, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "teacher.safetensors"
    save_file(teacher.state_dict(), path)
    before = path.read_bytes()
    assert export(path, path) == 2
    assert error_line(capsys).endswith("[command-line]")
    assert path.read_bytes() == before
