"""The check on a GPU: its stages, and a rehearsal of all of them on a CPU."""

import os
import subprocess
import sys
import time
from pathlib import Path

import check
import kit as kits
import measure_forms
import pytest
import results


def test_the_stages_exist_and_fit_the_time() -> None:
    limits = [stage.limit for stage in check.STAGES.values() if stage.default]
    assert check.RECEIVE + sum(limits) <= check.BUDGET
    for stage in check.STAGES.values():
        for script, *_ in stage.commands:
            assert (check.HERE / script).is_file()


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
