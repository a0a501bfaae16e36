"""Results of the check on a GPU: read from tests and profiles, and shown as tables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import check
import gpu_launches
import kernels
import measure_profile
import measure_tests
import pytest
import results
import step_program
import tables

from jaxdistill.ops import forms

CARD = "NVIDIA H100 80GB HBM3"


def test_a_result_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results.append(path, "copy", TB_per_s=3.0)
    with path.open("a") as file:
        file.write('{"kind": "copy", "TB_p')
    assert results.read(path) == [{"kind": "copy", "TB_per_s": 3.0}]


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


def test_results_of_other_settings_are_rows_of_their_own() -> None:
    """The original is compared with our step as it is, also where another one came last."""
    plain = {"kind": "step", **STEP, "flags": "", "plain_ops": "all", "ms": 75.0}
    graph = {"kind": "step", **STEP, "flags": "--graph", "plain_ops": "", "ms": 25.0}
    whole = {"precision": "float32", "batch": 4, "contestant": "ours", "images_per_s": 1.0}
    slow = {"kind": "whole", **whole, "plain_ops": "all", "ms": 90.0, "parts": {}}
    _, text = tables.section([*RESULTS, plain, graph, slow])
    steps = [line for line in text.splitlines() if line.startswith("| float32 | 32 |")]
    assert "| float32 | 32 | --graph | 25.0 |" in text
    assert "| float32 | 32 | JAXDISTILL_PLAIN_OPS=all | 75.0 |" in text
    assert "| float32 | 4 | ours JAXDISTILL_PLAIN_OPS=all | 90.0 |" in text
    assert "| float32 | 32 |  | 50.0 |" in text
    [original] = [line for line in steps if "eager" in line]
    assert original.endswith("| 3.00 x |")
    _, without = tables.section([*RESULTS[:2], plain, *RESULTS[5:]])
    assert "3.00 x" in without  # of the whole steps
    assert "2.00 x" not in without


def test_failures_are_those_of_the_last_run_that_had_the_stage() -> None:
    old = [{**each, "run": "1"} for each in RESULTS]
    tested = {"kind": "tests", "exit": 0, "complete": True, "passed": 901, "run": "2"}
    _, text = tables.section([*old, tested])
    assert "tests/test_x.py::test_y" not in text
    assert r"out of \| memory" in text  # the second run had no steps
    _, text = tables.section([*old, {"kind": "step", **STEP, "flags": "", "run": "2"}])
    assert "tests/test_x.py::test_y" in text
    assert r"out of \| memory" not in text


def test_a_result_says_which_run_it_is_of(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(results.VARIABLE, str(tmp_path / "results.jsonl"))
    monkeypatch.setenv(results.RUN, "1")
    monkeypatch.setenv(forms.PLAIN_OPS, "all")
    monkeypatch.setenv("XLA_FLAGS", "--a")
    results.record("step", **results.settings())
    [found] = results.read(tmp_path / "results.jsonl")
    assert found == {"kind": "step", "flags": "--a", "plain_ops": "all", "run": "1"}
    assert check._environment(tmp_path, tmp_path, tmp_path)[results.RUN] != "1"


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
