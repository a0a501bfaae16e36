"""Files of unknown origin do no harm: a fuzzer in a process of its own, and what it found."""

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx_models
import pytest
import tiny_run
from made_run import line, make
from refused import refused

from jaxdistill import config
from jaxdistill.evaluation import predictor
from jaxdistill.models import weights
from jaxdistill.reporting import html as html_lib
from jaxdistill.runtime.errors import (
    ConfigError,
    NetworkError,
    RunError,
    UserError,
    WeightsError,
)
from jaxdistill.runtime.files import read
from jaxdistill.teachers import onnx_session
from jaxdistill.teachers.cache_files import CacheFolder, DamagedEntryError
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import OnnxSession

FUZZ = Path(__file__).parent / "support" / "fuzz.py"


@pytest.mark.parametrize(
    "examples",
    [
        pytest.param(200, marks=pytest.mark.slow),
        pytest.param(10_000, marks=pytest.mark.campaign),
    ],
)
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path, examples: int) -> None:
    """A crash, a hang, a strange error or too much memory ends the process with another code."""
    command = [sys.executable, FUZZ, "--examples", str(examples), "--json", "--kept", tmp_path]
    path = f"{tiny_run.ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": path})
    output = done.stderr.decode(errors="replace")[-8000:]
    assert done.returncode == 0, f"{output}\nkept: {[f.read_bytes() for f in tmp_path.iterdir()]}"
    rows = [json.loads(row) for row in done.stdout.splitlines() if row.startswith(b"{")]
    assert len(rows) >= 9
    assert all(row["tried"] >= examples // 100 for row in rows)
    assert sum(row["refused"] for row in rows) > sum(row["tried"] for row in rows) / 2


def aliases(levels: int, form: str) -> str:
    """Returns YAML in which each level stands for ten of the one before."""
    rows = [f"a{n}: &a{n} {form.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, levels)]
    return "\n".join(["a0: &a0 {x: 1}", *rows])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (aliases(10, "[{}]"), "yaml-syntax"),
        (aliases(10, "{{<<: [{}]}}"), "yaml-syntax"),
        ("run: &a [*a]", "yaml-syntax"),
        ("run: " + "[" * 100_000, "yaml-syntax"),
        ("run: !!bool x", "yaml-syntax"),
        ("run: !!int ''", "yaml-syntax"),
        ("run: !!timestamp x", "yaml-syntax"),
        ("#" * 300_000, "unreadable-file"),
        ("run: x\ndata: {root: x}\nlosses: {kl: 0, mse: 0}\nTargets: 3", "unknown-key"),
        ('run: "a\\0b"\ndata: {root: x}', "invalid-path"),
        ('extends: "a\\0b"', "unreadable-file"),
        ("run: ~nobody-of-that-name/x\ndata: {root: x}", "invalid-path"),
        (
            "run: x\ndata: {root: x}\nstudent: {decoder_channels: [9000000, 1, 1, 1, 1]}",
            "out-of-range",
        ),
        ("run: x\ndata: {root: x, image_size: [640000, 640]}", "out-of-range"),
        ("run: x\nlosses: {kl: 0, mse: 0}\nseed: " + "9" * 4000, "out-of-range"),
    ],
)
def test_a_configuration_does_no_harm(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    began = time.perf_counter()
    with refused(ConfigError, code):
        config.load(path)
    assert time.perf_counter() - began < 5


def test_aliases_of_a_reasonable_size_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "run: x\ndata: {root: x, train: &split {images: a}, validation: *split}\n"
        "losses: {kl: 0, mse: 0}\nstudent: {normalization: {mean: &m [0, 0, 1], std: [1, 1, 1]}}"
    )
    assert config.load(path).data.validation.images == Path("a")


@pytest.mark.parametrize("place", ["/dev/zero", "pipe", "folder", "missing"])
def test_only_regular_files_are_read(tmp_path: Path, place: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"not a file|No such file"):
        read(tmp_path / place, 10**6)
    with refused(NetworkError, "onnx-unreadable", place):
        OnnxGraph(tmp_path / place)
    code = "no-such-file" if place == "missing" else "unreadable-file"
    with refused(ConfigError, code, place):
        config.load(tmp_path / place)


def test_a_cache_entry_cannot_steer_a_terminal(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, "logits", {}, [(1, 1, 1)])
    folder.write("07", False, [np.ones((1, 1, 1))])
    path = folder.entry_path("07", False)
    path.write_bytes(path.read_bytes().replace(b'"F16"', b'"\\n "'))
    with pytest.raises(DamagedEntryError) as caught:
        folder.read("07", False)
    assert str(caught.value).isprintable()


def test_names_cannot_steer_a_terminal_nor_fill_it() -> None:
    message = str(UserError("a\nb\x1b[2Jc\u202e" + "x" * 10**6))
    assert message.startswith(r"a\nb\x1b[2Jc\u202ex")
    assert message.isprintable()
    assert len(message) < 3000


# Networks and weights


def test_a_loop_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_session, "PATIENCE", 0.5)
    model = onnx_models.parse("""
        net (float[N, 3, H, W] picture) => (float[N, 3, H, W] mask)
        <int64 n = {9000000000000000000}, bool yes = {1}>
        {
            mask = Loop (n, yes, picture) <
                body = step (int64 i, bool on, float[N, 3, H, W] x)
                    => (bool still, float[N, 3, H, W] y)
                { still = Identity (on) y = Neg (x) }
            >
        }""")
    graph = OnnxGraph(onnx_models.save(model, tmp_path))
    began = time.perf_counter()
    with refused(NetworkError, "onnx-run"):
        OnnxSession(graph, ["mask"]).shapes((64, 64))
    assert time.perf_counter() - began < 10


def test_a_huge_input_is_not_made(tmp_path: Path) -> None:
    for batch, side in ((1, 100_000), (10**6, 64)):
        graph = OnnxGraph(onnx_models.save(onnx_models.segmenter(batch, side, side), tmp_path))
        with refused(NetworkError, "onnx-input-pixels"):
            OnnxSession(graph, ["mask"])


ABOUT = {
    "input": {"dtype": "uint8", "shape": ["N", "H", "W", 3], "image_size": [64, 64]},
    "output": {"range": "logits"},
    "normalization": {"mean": [0, 0, 0], "std": [1, 1, 1], "done by": "the graph"},
}


@pytest.mark.parametrize(
    ("group", "change"),
    [
        ("input", {"image_size": [10**9, 10**9]}),
        ("input", {"image_size": [float("inf"), 1]}),
        ("input", {"image_size": [-32, 0]}),
        ("input", {"dtype": 7}),
        ("output", {"range": []}),
        ("normalization", {"done by": "the caller", "std": [0, 1, 1]}),
        ("normalization", {"done by": "the caller", "mean": [float("nan"), 1, 1]}),
    ],
)
def test_metadata_of_a_network_are_checked(tmp_path: Path, group: str, change: dict) -> None:
    model = onnx_models.segmenter()  # its input is not of uint8, contrary to the metadata
    model.producer_name = "jaxdistill"
    changed = {**ABOUT, group: {**ABOUT[group], **change}}
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in changed.items()})
    with pytest.raises(UserError):
        predictor.load(onnx_models.save(model, tmp_path), default_size=(64, 64))


def test_deep_metadata_of_a_network_are_refused(tmp_path: Path) -> None:
    model = onnx_models.segmenter()
    model.producer_name = "jaxdistill"
    deep = "[" * 100_000 + "]" * 100_000
    onnx.helper.set_model_props(model, dict.fromkeys(ABOUT, deep))
    with refused(NetworkError, "onnx-metadata"):
        predictor.load(onnx_models.save(model, tmp_path))


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[[NaN, 0, 0], [1, 1, 1]]", "[[0, 0, 0], [0, 1, 1]]", "[[1e999, 0, 0], 1]"],
)
def test_an_unusable_normalization_is_refused(text: str) -> None:
    with refused(WeightsError, "weights-metadata", "normalization"):
        weights.parse_normalization(text, Path("x.safetensors"))


class TestCheckpointsOfTorch:
    """None of their code is run, and their sizes are checked."""

    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        self.torch = pytest.importorskip("torch", reason="needs the torch extra")

    def test_a_value_that_is_repeated_without_end(self, tmp_path: Path) -> None:
        half = self.torch.zeros(1, dtype=self.torch.half)
        self.assert_refused(tmp_path / "a.pth", "not-a-state-dict", {"a": half.expand(2**40)})

    def test_tensors_of_other_kinds(self, tmp_path: Path) -> None:
        torch = self.torch
        for tensor in (
            torch.sparse_coo_tensor([[0], [0]], [1.0], (10, 10), check_invariants=True),
            torch.zeros(3, device="meta"),
            torch.zeros(3, dtype=torch.complex64).conj(),
        ):
            self.assert_refused(tmp_path / "a.pth", "not-a-state-dict", {"a": tensor})
        self.assert_refused(tmp_path / "a.pth", "not-a-state-dict", {1: torch.zeros(3)})

    def test_a_compressed_file(self, tmp_path: Path) -> None:
        self.torch.save({"a": self.torch.zeros(10**6)}, tmp_path / "sound.pth")
        with (
            zipfile.ZipFile(tmp_path / "sound.pth") as sound,
            zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
        ):
            for name in sound.namelist():
                bomb.writestr(name, sound.read(name))
        self.assert_refused(tmp_path / "bomb.pth", "unsafe-pickle")

    def test_a_file_of_another_format(self, tmp_path: Path) -> None:
        (tmp_path / "a.pth").write_bytes(b"nothing")
        self.assert_refused(tmp_path / "a.pth", "weights-damaged")

    def assert_refused(self, path: Path, code: str, content: object = None) -> None:
        from jaxdistill.torch_interop import checkpoints

        if content is not None:
            self.torch.save(content, path)
        with refused(WeightsError, code, path.name):
            checkpoints.read(path)


# A run's folder


@pytest.mark.parametrize(
    ("file", "content", "code"),
    [
        ("metrics.jsonl", '{"epoch": Infinity}', "damaged-report-file"),
        ("metrics.jsonl", '{"epoch": 1e300}', "damaged-report-file"),
        (
            "metrics.jsonl",
            f'{{"epoch": 1, "train": {{"total": {10**400}}}}}',
            "damaged-report-file",
        ),
        ("metrics.jsonl", "[" * 100_000, "damaged-report-file"),
        ("provenance.json", "[" * 100_000, "damaged-report-file"),
        ("config.yaml", aliases(10, "[{}]"), "yaml-syntax"),
        ("config.yaml", b"\xff\xfe", "damaged-report-file"),
        ("samples/epoch_001.png", b"nothing", "unreadable-report-file"),
    ],
)
def test_a_damaged_file_of_a_run_is_refused_by_the_report(
    tmp_path: Path, file: str, content: str | bytes, code: str
) -> None:
    run = make(tmp_path / "run", [line(1), line(2)])
    (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with refused(ConfigError if code == "yaml-syntax" else RunError, code, file):
        html_lib.render(run)


def test_odd_values_of_a_run_are_shown(tmp_path: Path) -> None:
    odd = {"train": {"total": 5e-324, "\ud800": 1e308}, "seconds": {"</script>": -1e308}}
    deep = json.loads("[" * 400 + "]" * 400)
    run = make(
        tmp_path / "run",
        [line(1), line(2, **odd), {"epoch": 2**53}],
        {"losses": {"total": 10**400}, "training": {"epochs": 10**400}, "teacher": {"onnx": [1]}},
        {"<b>": {"\udfff": deep, '"': 10**100}},
    )
    os.utime(run / "metrics.jsonl", (2**40, 2**40))
    html = html_lib.render(run)
    html.encode()
    assert html.count("</script>") == 1
    assert "<b>" not in html


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [line(1)])
    own = tmp_path / "own"
    own.write_text("mine")
    for name in ("report.html", "report.partial"):
        (run / name).symlink_to(own)
    assert html_lib.write(run).read_bytes().startswith(b"<!doctype html>")
    assert own.read_text() == "mine"
