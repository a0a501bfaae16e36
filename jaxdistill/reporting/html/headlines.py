"""The figures on top of the page, that one looks for first."""

import statistics
from collections.abc import Iterator
from typing import NamedTuple

from jaxdistill.reporting.html.folder import Run
from jaxdistill.reporting.html.form import DECIMALS, number, text
from jaxdistill.runtime.text import format_duration


class _Figure(NamedTuple):
    name: str
    value: str
    remark: str


def headlines(run: Run) -> str:
    """The figures that one looks for first, as far as there are any."""
    figures = [*_scores(run), _progress(run), *_speed(run)]
    return "".join(
        f"<div><dt>{text(figure.name)}</dt><dd><strong>{text(figure.value)}</strong> "
        f"<small>{text(figure.remark)}</small></dd></div>"
        for figure in figures
    )


def _scores(run: Run) -> Iterator[_Figure]:
    """At the best epoch."""
    best, score = run.best, run.score
    if best is None or score is None:
        return
    place = run.epochs.index(best)
    own, latest = score.values[place], score.values[-1]
    remark = f"best, epoch {best}"
    if best != run.epochs[-1]:
        remark += f"; latest {number(latest, DECIMALS)}"
    if score.name == "agreement":
        yield _Figure("Agreement", number(own, DECIMALS), f"with the teacher; {remark}")
        return
    yield _Figure("Student mIoU", number(own, DECIMALS), remark)
    teacher = run.column("validation", "teacher_miou")
    if teacher and own and (its := teacher.values[place]):
        yield _Figure("Teacher mIoU", number(its, DECIMALS), f"student at {own / its:.1%} of it")
    agreement = run.column("validation", "agreement")
    if agreement and agreement.values[place] is not None:
        yield _Figure(
            "Agreement",
            number(agreement.values[place], DECIMALS),
            "pixels equal to the teacher's",
        )


def _progress(run: Run) -> _Figure:
    done = run.epochs[-1] if run.epochs else 0
    total = run.setting("training.epochs")
    if not isinstance(total, int):
        return _Figure("Epochs", str(done), "")
    left = total - done
    columns = [column.values for column in run.columns if column.group == "seconds"]
    each = [sum(filter(None, values)) for values in zip(*columns, strict=True)]
    if left <= 0:
        remark = f"complete, in {format_duration(sum(each))}" if each else "complete"
    elif each:
        # The first epoch compiles, and others may be disturbed: hence a median.
        remark = f"about {format_duration(left * statistics.median(each[-5:]))} to go"
    else:
        remark = "nothing measured yet"
    return _Figure("Epochs", f"{done} / {total}", remark)


def _speed(run: Run) -> Iterator[_Figure]:
    speed = run.column("", "images_per_second")
    seconds = run.column("seconds", "train")
    if speed and speed.finite:
        median = statistics.median(speed.finite)
        yield _Figure("Training speed", f"{median:.3g}", "images/s, median epoch")
    elif seconds and seconds.finite:
        median = statistics.median(seconds.finite)
        yield _Figure("Training time", format_duration(median), "per epoch, the median")
