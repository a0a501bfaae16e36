"""The top of the report: the line below its title, and the most important figures."""

import statistics
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import NamedTuple

from jaxdistill.reporting.html.formatting import DECIMALS, format_number
from jaxdistill.reporting.html.report_data import Run
from jaxdistill.runtime.text import format_duration


class Headline(NamedTuple):
    """A figure at the top of the report."""

    name: str
    value: str
    remark: str


def subtitle(run: Run) -> list[str]:
    """Returns the parts of the line below the title: encoder, image size, teacher, time."""
    size = run.setting("data.image_size")
    parts = [
        run.setting("student.encoder"),
        " \N{MULTIPLICATION SIGN} ".join(map(str, size)) if isinstance(size, list) else None,
        *(f"{role} {name}" for role in ("teacher", "detector") for name in _files(run, role)),
        f"updated {run.updated:%Y-%m-%d %H:%M %Z}" if run.updated else None,
    ]
    return [str(part) for part in parts if part]


def _files(run: Run, role: str) -> Iterator[str]:
    """Yields the names of the files of a network, or of a list of networks."""
    section = run.setting(role)
    for each in section if isinstance(section, list) else [section]:
        if isinstance(each, Mapping) and (path := each.get("onnx")):
            yield PurePath(str(path)).name


def headlines(run: Run) -> list[Headline]:
    """Returns the figures that exist for a run, the most important first."""
    return [*_scores(run), _progress(run), *_speed(run)]


def _scores(run: Run) -> Iterator[Headline]:
    """Yields the scores of the best epoch."""
    best, score = run.best, run.score
    if best is None or score is None:
        return
    index = run.epochs.index(best)
    own, latest = score.values[index], score.values[-1]
    remark = f"best, epoch {best}"
    if best != run.epochs[-1]:
        remark += f"; latest {format_number(latest, DECIMALS)}"
    if score.name == "agreement":
        yield Headline("Agreement", format_number(own, DECIMALS), f"with the teacher; {remark}")
        return
    yield Headline("Student mIoU", format_number(own, DECIMALS), remark)
    teacher = run.column("validation", "teacher_miou")
    if teacher and own and (miou := teacher.values[index]):
        share = f"student at {own / miou:.1%} of it"
        yield Headline("Teacher mIoU", format_number(miou, DECIMALS), share)
    agreement = run.column("validation", "agreement")
    if agreement and agreement.values[index] is not None:
        value = format_number(agreement.values[index], DECIMALS)
        yield Headline("Agreement", value, "pixels equal to the teacher's")


def _progress(run: Run) -> Headline:
    done = run.epochs[-1] if run.epochs else 0
    total = run.setting("training.epochs")
    if not isinstance(total, int):
        return Headline("Epochs", str(done), "")
    left = total - done
    columns = [column.values for column in run.columns if column.group == "seconds"]
    each = [sum(filter(None, values)) for values in zip(*columns, strict=True)]
    ended_early = left > 0 and "ended" in run.provenance.get("Run", {})
    if left <= 0 or ended_early:
        remark = "ended early" if ended_early else "complete"
        remark += f", in {format_duration(sum(each))}" if each else ""
    elif each:
        # The first epoch compiles, and others may be disturbed: hence a median.
        remark = f"about {format_duration(left * statistics.median(each[-5:]))} to go"
    else:
        remark = "nothing measured yet"
    return Headline("Epochs", f"{done} / {total}", remark)


def _speed(run: Run) -> Iterator[Headline]:
    speed = run.column("", "images_per_second")
    seconds = run.column("seconds", "train")
    if speed and speed.finite:
        median = statistics.median(speed.finite)
        yield Headline("Training speed", f"{median:.3g}", "images/s, median epoch")
    elif seconds and seconds.finite:
        median = statistics.median(seconds.finite)
        yield Headline("Training time", format_duration(median), "per epoch, the median")
