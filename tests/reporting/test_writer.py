"""The metric writer: what it writes, what it takes back, and how it fails."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from made_run import SETTINGS, line, make
from PIL import Image
from tensorboardX.proto import event_pb2

from jaxdistill.reporting import run_files, writer
from jaxdistill.reporting.writer import MetricWriter, NullWriter, truncate_after
from jaxdistill.runtime.errors import OutputError, UserError

GRID = Image.new("RGB", (50, 30), "red")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one epoch."""
    return make(tmp_path / "run", [line(1)], SETTINGS)


def events(run: Path) -> list[event_pb2.Event]:
    """All events in the TensorBoard files, read by the TFRecord format."""
    found = []
    for path in sorted((run / run_files.TENSORBOARD).iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            [length] = struct.unpack_from("<Q", content, place)
            found.append(event_pb2.Event.FromString(content[place + 12 : place + 12 + length]))
            place += 16 + length
    return found


def test_an_epoch_is_written_into_every_file(run: Path) -> None:
    written = MetricWriter(run, epochs=1)
    written.run_metadata({"Data": {"training images": 8}})
    written.epoch(2, {"train": {"total": 0.5}, "skipped": 0, "name": "x"}, GRID)
    written.close()
    lines = [json.loads(one) for one in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[1] == {"epoch": 2, "train": {"total": 0.5}, "skipped": 0, "name": "x"}
    assert json.loads((run / "provenance.json").read_text())["Data"] == {"training images": 8}
    assert Image.open(run / "samples/epoch_002.png").size == GRID.size
    assert "training images" in (run / "report.html").read_text()
    points = {
        value.tag: (event.step, value.simple_value)
        for event in events(run)
        for value in event.summary.value
    }
    assert points["train/total"] == (2, 0.5)
    assert points["skipped"] == (2, 0.0)
    assert points["samples"][0] == 2
    assert "name" not in points


def test_tensorboard_drops_the_epochs_that_a_resumed_run_repeats(run: Path) -> None:
    MetricWriter(run, epochs=3).close()
    starts = [e.step for e in events(run) if e.session_log.status == event_pb2.SessionLog.START]
    assert starts == [4]


def test_epochs_without_a_grid_are_written(run: Path) -> None:
    written = MetricWriter(run, epochs=1)
    written.epoch(2, {"train": {"total": 0.5}}, None)
    written.close()
    assert not (run / "samples/epoch_002.png").exists()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_resumed_run_keeps_earlier_lines_only(run: Path) -> None:
    metrics = [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    faults = [{"step": 3}, {"step": 4}]
    for name, lines in ((run_files.METRICS, metrics), (run_files.NONFINITE, faults)):
        text = "".join(json.dumps(one) + "\n" for one in lines)
        (run / name).write_text("damaged\n" + text + '{"epoch": 1, "step": 0}')  # cut off
    truncate_after(run, epoch=2, step=4)
    assert (run / run_files.METRICS).read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    assert (run / run_files.NONFINITE).read_text() == '{"step": 3}\n'


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_part_of_itself(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrapper of the real file fails after four bytes, as on a full disk."""
    before = (run / "metrics.jsonl").read_bytes()
    written = MetricWriter(run, epochs=1)
    opened = Path.open

    def filling(self: Path, *args: object, **kwargs: object) -> object:
        file = opened(self, *args, **kwargs)
        if self.name == "metrics.jsonl" and args == ("ab",):
            return Filling(file)
        return file

    monkeypatch.setattr(Path, "open", filling)
    with pytest.raises(OutputError) as caught:
        written.epoch(2, {"train": {"total": 0.5}}, GRID)
    assert caught.value.code == "report-not-written"
    assert (run / "metrics.jsonl").read_bytes() == before
    assert [line["epoch"] for line in written.unwritten] == [2]
    monkeypatch.undo()
    written.epoch(3, {"train": {"total": 0.4}}, GRID)
    written.close()
    assert [json.loads(one)["epoch"] for one in (run / "metrics.jsonl").open()] == [1, 2, 3]


def test_a_line_that_was_not_written_comes_from_the_checkpoint(run: Path) -> None:
    """Of the epoch before, too: its line was still to be written when the checkpoint was."""
    (run / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 4}\n{"epo')
    written = MetricWriter(run, epochs=3)
    written.continue_after(3, 6, {"validation": {"x": 1}, "unwritten": [{"epoch": 2}], "more": 0})
    expected = ['{"epoch": 1}', '{"epoch": 2}', '{"epoch": 3, "validation": {"x": 1}}']
    assert (run / "metrics.jsonl").read_text().splitlines() == expected
    written.continue_after(3, 6, {"validation": {"x": 1}, "unwritten": [{"epoch": 2}]})
    assert (run / "metrics.jsonl").read_text().splitlines() == expected


def test_a_report_that_could_not_be_continued_is_continued_with_the_next_line(run: Path) -> None:
    (run / "metrics.jsonl").rename(run / "kept")
    (run / "metrics.jsonl").mkdir()
    written = MetricWriter(run, epochs=2)
    with pytest.raises(OutputError):
        written.continue_after(2, 4, {"validation": {}})
    (run / "metrics.jsonl").rmdir()
    (run / "kept").rename(run / "metrics.jsonl")
    written.epoch(3, {"train": {"total": 0.4}}, GRID)
    assert [json.loads(one)["epoch"] for one in (run / "metrics.jsonl").open()] == [1, 2, 3]


class Filling:
    """A file on a disk with room for four more bytes."""

    def __init__(self, file) -> None:
        self.file, self.room = file, 4

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        self.room = 0
        return self.file.write(data[:4])

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


def test_a_report_that_fails_raises_one_class_of_error_and_the_next_one_succeeds(
    run: Path,
) -> None:
    written = MetricWriter(run, epochs=1)
    (run / "samples/epoch_001.png").write_bytes(b"damaged")
    with pytest.raises(UserError):
        written.epoch(2, {"train": {"total": 0.5}}, GRID)
    (run / "samples/epoch_001.png").unlink()
    written.epoch(3, {"train": {"total": 0.4}}, GRID)
    written.close()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    with pytest.raises(OutputError):
        written.epoch(4, {"train": {"total": 0.5}}, GRID)  # it was closed


def test_a_part_that_fails_leaves_the_others(run: Path) -> None:
    for grid in (run / "samples").iterdir():
        grid.unlink()
    (run / "samples").rmdir()
    (run / "samples").write_text("a file")
    written = MetricWriter(run, epochs=1)
    with pytest.raises(OutputError, match="samples"):
        written.epoch(2, {"train": {"total": 0.5}}, GRID)
    written.close()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert any(event.summary.value for event in events(run))
    assert (run / "report.html").exists()


def test_all_parts_that_fail_are_named(run: Path) -> None:
    (run / run_files.TENSORBOARD).write_text("a file")
    written = MetricWriter(run, epochs=1)
    (run / "report.html").unlink(missing_ok=True)
    (run / "report.html").mkdir()
    with pytest.raises(ExceptionGroup) as caught:
        written.epoch(2, {"train": {"total": 0.5}}, GRID)
    written.close()
    assert all(isinstance(each, OutputError) for each in caught.value.exceptions)
    names = [str(each) for each in caught.value.exceptions]
    assert [run_files.TENSORBOARD in names[0], "report.html" in names[1]] == [True, True]


def test_curves_that_could_not_be_opened_are_tried_again(run: Path) -> None:
    (run / run_files.TENSORBOARD).write_text("a file")
    written = MetricWriter(run, epochs=1)
    with pytest.raises(OutputError, match=run_files.TENSORBOARD):
        written.epoch(2, {"train": {"total": 0.5}}, GRID)
    (run / run_files.TENSORBOARD).unlink()
    written.epoch(3, {"train": {"total": 0.4}}, GRID)
    written.close()
    assert {event.step for event in events(run) if event.summary.value} == {3}


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        MetricWriter(tmp_path / "file" / "run", epochs=0)
    assert caught.value.code == "report-not-written"


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    silent = NullWriter()
    silent.run_metadata({})
    silent.epoch(1, {}, None)
    silent.nonfinite({"step": 1})
    silent.close()
    assert list(tmp_path.iterdir()) == []


def test_epoch_1000_comes_after_epoch_999(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for epoch in (1000, 999, 2):
        run_files.sample_path(tmp_path, epoch).touch()
    (tmp_path / "samples/epoch_x.png").touch()
    assert list(run_files.sample_paths(tmp_path)) == [2, 999, 1000]


def test_values_that_are_not_finite_are_written(run: Path) -> None:
    written = MetricWriter(run, epochs=1)
    written.nonfinite({"step": 7, "values": {"kl": float("nan")}})
    written.close()
    [one] = (run / writer.NONFINITE).read_text().splitlines()
    assert np.isnan(json.loads(one)["values"]["kl"])
