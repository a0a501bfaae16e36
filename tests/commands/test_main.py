"""The command line `jaxdistill`: finding commands, plugins, and errors in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run

import jaxdistill
from jaxdistill.__main__ import COMMANDS, main
from jaxdistill.commands import common

PLUGIN = """
from dataclasses import dataclass

import jax.numpy as jnp

import jaxdistill as jd


@jd.losses.LOSSES.register("plugin-loss")
@dataclass(frozen=True)
class PluginLoss(jd.losses.Loss):
    requires = frozenset({"mask"})

    def __call__(self, inputs):
        return jnp.square(inputs.outputs.logits).mean((1, 2, 3))
"""


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
def test_help_and_version_import_nothing_that_is_slow(option: str) -> None:
    code = (
        "import sys\n"
        "from jaxdistill.__main__ import main\n"
        f"assert main(['{option}']) == 0\n"
        "slow = {'jax', 'numpy', 'flax', 'onnx', 'onnxruntime', 'pydantic', 'rich'}\n"
        "assert not slow & sys.modules.keys(), slow & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "jaxdistill" in done.stdout


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxdistill {jaxdistill.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_describes_itself_and_takes_plugins(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: jaxdistill {name} ")
    assert "--plugin MODULE" in printed


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("trian", "train"), ("export_teacher", "export-teacher"), ("cache-target", "cache-targets")],
)
def test_an_unknown_command_names_the_nearest_one(
    name: str, nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 2
    line = error_line(capsys)
    assert line.endswith("[unknown-command]")
    assert f"did you mean '{nearest}'?" in line


def test_no_command_at_all_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert error_line(capsys).endswith("[missing-command]")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "--config", "demo", "--unknown"],
        ["predict", "run"],
        ["evaluate"],
        ["export", "run", "a.onnx", "--precision", "int4"],
        ["rank-features", "--config", "demo", "--stride", "3"],
        ["convert-weights", "to-smp", "run", "a.txt"],
        ["export-teacher", "a.pth", "a.onnx", "--size", "100", "64"],
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    line = error_line(capsys)
    assert line.endswith("[command-line]")
    assert f"see jaxdistill {arguments[0]}" in line


LONG = "x" * 300


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["predict", "a.onnx", f"{LONG}.jpg", "--output", "out"], "name-too-long"),
        (["predict", f"{LONG}.onnx", "{image}", "--output", "out"], "name-too-long"),
        (["evaluate", LONG], "name-too-long"),
        (["report", LONG], "name-too-long"),
        (["check-data", LONG], "name-too-long"),
        (["predict", "a.onnx", "~nobody-is-called-so/a.jpg", "--output", "out"], "invalid-path"),
        (["predict", "~nobody-is-called-so/a.onnx", "{image}", "--output", "out"], "invalid-path"),
        (["inspect", "~nobody-is-called-so/a.onnx"], "invalid-path"),
        (["storage", "~nobody-is-called-so/a"], "invalid-path"),
    ],
)
def test_a_path_that_cannot_exist_is_refused_in_one_line(
    tmp_path: Path, arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "a.jpg"
    image.touch()
    assert main([argument.format(image=image) for argument in arguments]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert line.endswith(f"[{code}]")
    assert LONG in line or "~nobody-is-called-so" in line


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["convert-weights", "encoder", "a.pth", "a.safetensors"], "convert_weights"),
        (["export-teacher", "a.pth", "a.onnx"], "export_teacher"),
    ],
)
def test_a_command_that_needs_torch_names_the_extra(
    arguments: list[str],
    module: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("checkpoints", "smp_networks", module):
        monkeypatch.delitem(sys.modules, f"jaxdistill.torch_interop.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(arguments) == 2
    line = error_line(capsys)
    assert line.endswith("[extra-missing]")
    assert "jaxdistill[torch]" in line


def test_a_plugin_in_the_working_directory_registers_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run.make(tmp_path)
    (tmp_path / "my_losses.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    config = ["--config", str(tiny_run.SPECIFIED), *tiny_run.overrides(tmp_path)]
    arguments = ["cache-targets", *config, "data.augment=flip", f"targets.cache={tmp_path}/cache"]
    arguments.append("losses.plugin-loss=0.5")
    assert main(arguments) == 2
    assert error_line(capsys).endswith("[unknown-loss]")
    assert main([*arguments, "--plugin", "my_losses"]) == 0


@pytest.mark.parametrize("module", ["no_such_module", "jaxdistill.no_such_module", "", "a..b"])
def test_a_plugin_that_does_not_exist_is_named(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["report", "run", f"--plugin={module}"]) == 2
    line = error_line(capsys)
    assert line.endswith("[plugin-missing]")
    assert f"--plugin {module}" in line


def test_an_error_within_a_plugin_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_plugin.py").write_text("import no_such_dependency\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        common.import_plugin("broken_plugin")


def test_python_m_jaxdistill_train_stays() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jaxdistill.train", "--config", "no-such-configuration"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.endswith("[no-such-file]")
