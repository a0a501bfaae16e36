"""Experiment trackers: what they receive, that a resumed run goes on, and that none ends a run.

Weights & Biases and MLflow are stood in for by small modules with the members that are used; the
tests marked by `importorskip` use the real packages where they are installed.
"""

import json
import logging
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from made_run import line, make
from PIL import Image
from refused import refused

from jaxdistill.reporting import trackers
from jaxdistill.reporting.trackers import TRACKERS, Trackers
from jaxdistill.reporting.writer import MetricWriter
from jaxdistill.runtime.errors import ConfigError

GRID = Image.new("RGB", (50, 30), "red")
SETTINGS = {"seed": 3, "data": {"root": "data"}}


class Recorder:
    """Keeps what it receives; fails where it is told to."""

    package = "json"  # which is always there
    seen: list[tuple[Any, ...]] = []  # noqa: RUF012
    fails = ""

    def __init__(self, run: Path, settings: Any) -> None:
        self._act("start", run.name, settings)

    def epoch(self, number: int, values: Any, grid: Any) -> None:
        self._act("epoch", number, values, grid)

    def close(self) -> None:
        self._act("close")

    def _act(self, *what: Any) -> None:
        if self.fails in (what[0], "all"):
            raise RuntimeError(f"no {what[0]}\nof two lines")
        self.seen.append(what)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setattr(Recorder, "seen", [])
    monkeypatch.setitem(TRACKERS._entries, "recorder", Recorder)
    return Recorder


def written(run: Path, names: tuple[str, ...], *numbers: int) -> None:
    if not run.exists():
        make(run, [])
    writer = MetricWriter(run, numbers[0] - 1, Trackers(names, run, SETTINGS))
    for number in numbers:
        values = {**line(number), "skipped_steps": 0}
        del values["epoch"]
        writer.epoch(number, values, GRID)
    writer.close()


def test_a_tracker_receives_settings_epochs_and_the_end(tmp_path: Path, recorder: Any) -> None:
    written(tmp_path / "run", ("recorder",), 1)
    start, (_, number, values, grid), close = recorder.seen
    assert (start, close) == (("start", "run", SETTINGS), ("close",))
    assert (number, grid) == (1, GRID)
    assert (values["train/total"], values["validation/student_miou"]) == (30.0, 0.7)
    assert all(isinstance(value, float) for value in values.values())


@pytest.mark.parametrize("fails", ["start", "epoch", "close", "all"])
def test_a_failing_tracker_is_a_warning_and_everything_else_is_written(
    tmp_path: Path,
    recorder: Any,
    fails: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(recorder, "fails", fails)
    with caplog.at_level(logging.WARNING, logger="jaxdistill"):
        written(tmp_path / "run", ("recorder",), 1, 2, 3)
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith("recorder failed")
    assert "\n" not in message
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_trackers_are_checked_before_a_run(recorder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trackers.check(["recorder"])
    with refused(ConfigError, "unknown-tracker", "wandbb"):
        trackers.check(["wandbb"])
    monkeypatch.setattr(recorder, "package", "no_such_package")
    with refused(ConfigError, "tracker-not-installed", "no_such_package"):
        trackers.check(["recorder"])


class FakeWandb(types.ModuleType):
    """The members of wandb that are used."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.Settings, self.Image = dict, lambda grid: ("image", grid)
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **options: Any) -> "FakeWandb":
        self.started.append(options)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def _no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_no_login")
@pytest.mark.parametrize(("login", "mode"), [("", "offline"), ("key", None), ("file", None)])
def test_wandb_goes_on_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: str, mode: str | None
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    if login == "key":
        monkeypatch.setenv("WANDB_API_KEY", "secret")
    if login == "file":
        (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    written(tmp_path / "run", ("wandb",), 1, 2)
    written(tmp_path / "run", ("wandb",), 3)
    first, second = (each["id"] for each in fake.started)
    assert first == second
    assert {each["mode"] for each in fake.started} == {mode}
    assert fake.started[0]["config"] == SETTINGS
    assert [step for step, _ in fake.logged] == [1, 2, 3]
    assert fake.logged[0][1]["train/total"] == 30.0
    assert fake.logged[0][1]["samples"] == ("image", GRID)
    assert fake.finished == 2


@pytest.mark.usefixtures("_no_login")
def test_wandb_writes_offline_without_a_login(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    written(tmp_path / "run", ("wandb",), 1, 2)
    written(tmp_path / "run", ("wandb",), 3)
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    identity = json.loads((tmp_path / "run" / "trackers.json").read_text())["wandb"]
    assert all(identity in file.name for file in files)


def test_mlflow_keeps_one_run_in_the_runs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    run = tmp_path / "run"
    written(run, ("mlflow",), 1, 2)
    written(run, ("mlflow",), 3)
    client = mlflow.MlflowClient((run / "mlruns").as_uri())
    [experiment] = [e for e in client.search_experiments() if e.name == "jaxdistill"]
    [found] = client.search_runs([experiment.experiment_id])
    assert found.data.params["data.root"] == "data"
    assert found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "validation/student_miou")
    assert sorted(point.step for point in history) == [1, 2, 3]
    samples = client.list_artifacts(found.info.run_id, "samples")
    assert len(samples) == 3
