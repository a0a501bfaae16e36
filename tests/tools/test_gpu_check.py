"""The check on a GPU: its parts, and a rehearsal of every stage on a CPU."""

import json
import lzma
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import check
import gpu_launches
import kernels
import kit as kits
import measure_forms
import measure_profile
import measure_tests
import numpy as np
import onnx
import onnx_models
import pieces
import prune
import pytest
import results
import skeleton
import step_program
import tables
from onnx import numpy_helper

CARD = "NVIDIA H100 80GB HBM3"


def test_the_stages_exist_and_fit_the_time() -> None:
    limits = [stage.limit for stage in check.STAGES.values() if stage.default]
    assert check.RECEIVE + sum(limits) <= check.BUDGET
    for stage in check.STAGES.values():
        for script, *_ in stage.commands:
            assert (check.HERE / script).is_file()


@pytest.mark.parametrize("kit", [kits.FULL, kits.SMALL])
def test_a_kit_is_read_as_it_was_written(tmp_path: Path, kit: kits.Kit) -> None:
    kits.write(tmp_path / "kit", kit)
    assert kits.read(tmp_path / "kit") == kit
    assert f"data.root={tmp_path}/images" in kits.run_settings(kit, tmp_path)
    for precision, batch in [*kit.steps, *kit.whole]:
        settings = step_program.settings_of(kit, precision, batch)
        assert (settings.precision, settings.training.batch_size) == (precision, batch)


def stage_of(folder: Path, code: str, limit: float = 60) -> check.Stage:
    script = folder / f"script{len(list(folder.glob('*.py')))}.py"
    script.write_text(code)
    return check.Stage(limit, ((str(script),),), {"XLA_FLAGS": "--b"})


@pytest.mark.slow
def test_a_stage_that_fails_or_takes_too_long_does_not_end_the_others(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    environment = {**os.environ, results.VARIABLE: str(path), "XLA_FLAGS": "--a"}
    environment["PYTHONPATH"] = str(check.HERE)
    fails = stage_of(tmp_path, "import results; results.record('one', x=1); raise SystemExit(3)")
    stuck = "import results, time; results.record('two', x=2); time.sleep(600)"
    works = "import os, results; results.record('three', flags=os.environ['XLA_FLAGS'])"
    start = time.monotonic()
    assert not check.run("fails", fails, environment, tmp_path)
    assert not check.run("stuck", stage_of(tmp_path, stuck, 2), environment, tmp_path)
    assert check.run("works", stage_of(tmp_path, works), environment, tmp_path)
    late = stage_of(tmp_path, works)
    assert not check.run("late", late, environment, tmp_path, end=start)
    found = results.read(path)
    ends = {each["name"]: each["exit"] for each in found if each["kind"] == "stage"}
    assert ends == {"fails": [3], "stuck": ["limit"], "works": [0], "late": ["limit"]}
    assert [each for each in found if each["kind"] == "three"] == [
        {"kind": "three", "flags": "--a --b"}
    ]
    assert "== stuck" in (tmp_path / "log.txt").read_text()


def test_an_unknown_stage_and_a_missing_kit_are_refused(tmp_path: Path) -> None:
    for arguments in (["ceiling"], ["--kit", str(tmp_path), "ceilings"]):
        with pytest.raises(SystemExit) as caught:
            check.main(["--results", str(tmp_path), *arguments])
        assert caught.value.code == 2


def test_a_result_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results.append(path, "copy", TB_per_s=3.0)
    with path.open("a") as file:
        file.write('{"kind": "copy", "TB_p')
    assert results.read(path) == [{"kind": "copy", "TB_per_s": 3.0}]


def test_pieces_are_put_together(tmp_path: Path) -> None:
    content, work = tmp_path / "content", tmp_path / "work"
    kits.write(content / "kit", kits.SMALL)
    noise = np.random.default_rng(0).bytes(30_000)
    (content / "onnxruntime").mkdir()
    (content / "onnxruntime" / "library.so").write_bytes(noise)
    (content / "kit" / "networks").mkdir()
    model = onnx_models.save(onnx_models.segmenter(), tmp_path)
    skeleton.strip(model, content / "kit" / "networks" / "a.onnx.skeleton")
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
    found = pieces.split(content, tmp_path / "pieces", 12_000, filters)
    assert len(found) == 3
    assert max(each.stat().st_size for each in found) <= 12_000
    assert [pieces.receive(each, work) for each in reversed(found)] == [False, False, True]
    assert kits.read(work / "kit") == kits.SMALL
    assert (work / "site" / "library.so").read_bytes() == noise
    onnx.checker.check_model(work / "kit" / "networks" / "a.onnx")
    with pytest.raises(SystemExit):
        pieces.receive(model, work)


def test_a_network_without_weights_costs_the_same(tmp_path: Path) -> None:
    model = onnx_models.segmenter()
    values = np.random.default_rng(0).normal(3, 2, (64, 64, 3, 3)).astype(np.float16)
    model.graph.initializer.append(numpy_helper.from_array(values, "large"))
    source = onnx_models.save(model, tmp_path)
    skeleton.strip(source, tmp_path / "stripped")
    assert (tmp_path / "stripped").stat().st_size < 2_500
    skeleton.fill(tmp_path / "stripped", tmp_path / "filled.onnx")
    before, after = onnx.load(source).graph, onnx.load(tmp_path / "filled.onnx").graph
    assert before.node == after.node
    *small, large = map(numpy_helper.to_array, after.initializer)
    for one, other in zip(small, before.initializer, strict=False):
        np.testing.assert_array_equal(one, numpy_helper.to_array(other))
    assert (large.shape, large.dtype) == (values.shape, values.dtype)
    assert float(large.astype(float).mean()) == pytest.approx(3, abs=0.1)
    assert float(large.astype(float).std()) == pytest.approx(2, abs=0.1)


def container(*entries: tuple[int, int, bytes]) -> bytes:
    """A fat binary of entries (kind, architecture, code)."""
    body = b"".join(
        struct.pack("<HHIQ", kind, 0, 64, len(code))
        + bytes(12)
        + struct.pack("<I", architecture)
        + bytes(32)
        + code
        for kind, architecture, code in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_other_cards_code_is_cleared_and_nothing_else() -> None:
    ours, other, ptx = b"H" * 40, b"A" * 50, b"P" * 60
    both = container((2, 80, other), (2, 90, ours), (1, 90, ptx))
    elsewhere = container((2, 80, other), (1, 80, ptx))  # no code for the card: it compiles PTX
    magic_by_chance = struct.pack("<I", 0xBA55ED50) + b"text"
    library = bytearray(b"ELF" + magic_by_chance + both + elsewhere + magic_by_chance)
    size = len(library)
    assert prune.prune(library, 90) == len(other) + len(ptx)
    kept = both.replace(other, bytes(len(other))).replace(ptx, bytes(len(ptx)))
    assert bytes(library) == b"ELF" + magic_by_chance + kept + elsewhere + magic_by_chance
    assert len(library) == size


LINES = """\
tests/a/test_x.py::test_one PASSED                  [ 10%]
tests/a/test_x.py::test_two[1-x y] FAILED           [ 20%]
[gw1] [ 30%] PASSED tests/b/test_y.py::test_three
[gw0] [ 40%] ERROR tests/b/test_y.py::test_four
tests/b/test_y.py::test_five SKIPPED (needs a GPU)  [ 50%]
FAILED tests/a/test_x.py::test_two[1-x y] - assert False
"""


def test_pytest_s_output_is_read_also_without_its_end() -> None:
    outcomes, complete = measure_tests.parse(LINES.splitlines())
    assert outcomes == {"passed": 2, "failed": 1, "error": 1, "skipped": 1}
    assert not complete
    end = "==== 1 failed, 2 passed, 1 skipped, 1 error in 12.30s ===="
    assert measure_tests.parse([*LINES.splitlines(), end])[1]


def test_a_failure_is_recorded_while_other_tests_still_run(tmp_path: Path) -> None:
    """The run is killed in its second test."""
    path, module = tmp_path / "results.jsonl", tmp_path / "test_some.py"
    module.write_text(
        "import os\ndef test_bad():\n    assert 1 == 2\ndef test_stuck():\n    os._exit(9)\n"
    )
    environment = {**os.environ, results.VARIABLE: str(path), "PYTHONPATH": str(check.HERE)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    options = ["-p", "report_failures", "-p", "no:cacheprovider", "-c", os.devnull]
    program = [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(module)]
    assert subprocess.run(program, env=environment, check=False, cwd=tmp_path).returncode == 9
    [found] = results.read(path)
    assert (found["kind"], found["message"]) == ("failed test", "assert 1 == 2")
    assert found["name"].endswith("::test_bad")


class Event:
    def __init__(self, name: str, duration: int, **stats: str) -> None:
        self.name, self.duration_ns, self.stats = name, duration, list(stats.items())


class Tree:
    """A profile with planes, a plane with lines, or a line with events."""

    def __init__(self, name: str, children: list) -> None:
        self.name = name
        self.planes = self.lines = self.events = children


def test_kernels_are_compared_with_the_floor_of_their_launches() -> None:
    events = [
        Event("sum_fusion_1", 3000, hlo_op="command_buffer_7"),  # in a graph
        Event("sm90_gemm", 6000, hlo_op="something.2"),  # of a library
        Event("convert", 3000, hlo_op="something.2"),
    ]
    profile = Tree("", [Tree("/device:GPU:0", [Tree("Stream", events)]), Tree("/host:CPU", [])])
    seconds = measure_profile.by_name(kernels.of_profile(profile))
    assert seconds == {"sum_fusion_1": pytest.approx(1e-6), "something_2": pytest.approx(3e-6)}
    launch = gpu_launches.Launch("something.2", "fusion", 2_000_000, 0, 5e-7, 1, "jit(step)/a", ())
    first, second = measure_profile.joined(seconds, [launch])
    assert (first["name"], first["us"], first["floor_us"], first["MB"]) == (
        "something_2",
        3,
        0.5,
        2,
    )
    assert first["operation"] == "jit(step)/a"
    assert (second["us"], second["floor_us"], second["operation"]) == (1, 0, "")


PROGRAM = """\
ENTRY %main (x: f32[1024,1024]) -> f32[1024,1024] {
  %x = f32[1024,1024]{1,0} parameter(0)
  ROOT %y = f32[1024,1024]{1,0} custom-call(%x), custom_call_target="something"
}
"""


def test_the_floor_is_that_of_a_known_card() -> None:
    for card, rate in (("NVIDIA H200", 4.8e12), (CARD, 3.352e12)):
        counted = step_program.count(PROGRAM, card)
        assert (counted.launches, counted.bytes) == (1, 8 << 20)
        assert counted.floor == pytest.approx((8 << 20) / rate)
    assert step_program.count(PROGRAM, "another card").floor is None


STEP = {"precision": "float32", "batch": 32, "ms": 50.0, "share_of_floor": 0.714}
RESULTS = [
    {"kind": "card", "name": CARD, "driver": "580", "jax": "0.10.2"},
    {"kind": "copy", "TB_per_s": 3.01},
    {"kind": "step", **STEP, "flags": "", "images_per_s": 640.0, "ms": 51.0},
    {"kind": "step", **STEP, "flags": "", "images_per_s": 640.0},
    {"kind": "step", "precision": "bfloat16", "batch": 64, "error": "out of | memory"},
    {
        **{"kind": "torch", "precision": "float32", "batch": 32, "mode": "eager"},
        **{"layout": "NHWC", "ms": 150.0, "images_per_s": 213.3, "peak_GB": 20.0},
    },
    {
        **{"kind": "whole", "precision": "float32", "batch": 4, "contestant": "original"},
        **{"ms": 90.0, "images_per_s": 44.4, "peak_GB": 5.0, "parts": {"teacher": 20.0}},
    },
    {
        **{"kind": "whole", "precision": "float32", "batch": 4, "contestant": "ours"},
        **{"ms": 30.0, "images_per_s": 133.3, "peak_GB": 2.0, "parts": {"student step": 9.0}},
    },
    {
        **{"kind": "profile", "precision": "float32", "batch": 4, "ms": 13.0, "floor_ms": 2.8},
        "launches": [{"name": "a", "us": 9.0, "floor_us": 1.0, "MB": 3.0, "operation": "jit(b)"}],
    },
    {
        **{"kind": "form", "operation": "3x3", "form": "columns: 4", "precision": "float32"},
        "batch": 4,
        "us": {"value": 9.5, "weight_gradient": 20.0},
    },
    {"kind": "tests", "exit": 1, "complete": False, "passed": 900, "failed": 1},
    {"kind": "failed test", "name": "tests/test_x.py::test_y", "message": "assert a | b"},
    {"kind": "stage", "name": "tests", "seconds": 130.0, "exit": ["limit"]},
]


def test_tables_show_the_last_result_of_each_measurement() -> None:
    card, text = tables.section(RESULTS)
    assert card == CARD
    lines = text.splitlines()
    [tuned] = [line for line in lines if line.startswith("| float32 | 32 |  | 50.0 |")]
    assert "| 50.0 | 640.0 |" in tuned
    assert "| float32 | 4 | original | 90.0 | 44.4 | 20.0 |  |  | 5.0 | 3.00 x |" in lines
    assert "| a | 9.0 | 1.0 | 3.0 | jit(b) |" in lines
    assert "| 3x3 | 4 | columns: 4 | float32 | 9.5 |  | 20.0 |" in lines
    assert "| 71 % |" in tuned
    assert "3.00 x" in text  # the original, against the tuned step
    assert "900 passed, 1 failed before the time was up" in text
    assert r"| tests/test_x.py::test_y | assert a \| b |" in lines
    assert r"out of \| memory" in text


def test_a_page_holds_the_tables_of_a_card_once(tmp_path: Path) -> None:
    page, path = tmp_path / "page.md", tmp_path / "results.jsonl"
    page.write_text("# Title\n")
    path.write_text("".join(json.dumps(each) + "\n" for each in RESULTS))
    for _ in range(2):
        tables.main([str(path), "--write", str(page)])
    _, text = tables.section(RESULTS)
    assert page.read_text().count(text) == 1
    other = tables.replaced(page.read_text(), "another", "### another\n")
    assert other.startswith(page.read_text())
    assert "### another" not in tables.replaced(other, "another", "### newer\n")


@pytest.mark.slow
def test_every_stage_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",  # torch's threads would wait for each other on a busy machine
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": str(kits.ROOT),
    }

    def run(script: str, *arguments: object) -> None:
        command = [sys.executable, str(check.HERE / script), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    run("pack.py", tmp_path, "--small")
    work, out = tmp_path / "work", tmp_path / "results"
    stages = [name for name in check.STAGES if name != "graph"]
    run("check.py", "--kit", tmp_path / "kit", "--work", work, "--results", out, *stages)
    found = results.read(out / "results.jsonl")
    log = (out / "log.txt").read_text()
    assert not [each for each in found if "error" in each], log
    ends = {each["name"]: each["exit"] for each in found if each["kind"] == "stage"}
    assert ends == {name: [0] for name in stages}, log
    folds = sum(len(each.columns) for each in measure_forms.CONVOLUTIONS)
    by_kind: dict[str, list] = {}
    for each in found:
        by_kind.setdefault(each["kind"], []).append(each)
    for kind, expected in (
        ("card", 1),
        ("copy", 1),
        ("product", 2),
        ("step", len(kits.SMALL.steps)),
        ("profile", 1),  # of a CPU, it lists no launches
        ("whole", 3),
        ("torch", 3),  # eager in two layouts, compiled in one
        ("onnx", 2 * len(kits.SMALL.networks)),
        ("form", 2 * (folds + 3 * len(measure_forms.DEPTHWISE))),
    ):
        assert len(by_kind[kind]) == expected
    for each in [*by_kind["step"], *by_kind["whole"]]:
        assert each["ms"] > 0
    for each in by_kind["step"]:
        assert each["launches"] > 100
    assert {each["contestant"] for each in by_kind["whole"]} == {"original", "compiled", "ours"}
    [train], [resumed], [exported] = by_kind["train"], by_kind["resume"], by_kind["export"]
    assert train["exit"] == exported["exit"] == resumed["exit"] == 0
    assert train["epochs"] == resumed["epochs"] == 4
    assert 0 < train["scores"]["student_miou"] < 1
    assert resumed["stopped_as_asked"]
    assert set(resumed["difference"].values()) == {0.0}  # bit for bit on a CPU
    assert by_kind["tests"] == [{"kind": "tests", "exit": 0, "complete": True, "passed": 2}]
    assert "| whole run | 0 |" in tables.section(found)[1]
