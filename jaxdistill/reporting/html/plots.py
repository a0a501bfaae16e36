"""Which numbers share a chart, and the title and legend of each chart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxdistill.reporting.html import chart
from jaxdistill.reporting.html.formatting import Texts, format_name
from jaxdistill.reporting.html.report_data import Column, Run

# Prefixes of the numbers in `train` that are not losses.
_NOT_LOSSES = ("learning_rate", "temperature", "gradient_norm", "feature_weight")
_LEARNING = ("train", "validation")


class Entry(NamedTuple):
    """A line of a legend."""

    style: str
    """The class of the curve in the style sheet."""
    name: str
    column: int
    """Index of the curve's column in the table of numbers; column 0 holds the epochs."""
    value: str
    """The value of the latest epoch."""


class Figure(NamedTuple):
    """A chart, or the same chart on two scales, below its title and legend."""

    title: str
    remark: str
    legend: list[Entry]
    label: str
    """Text for screen readers."""
    charts: list[chart.Chart]


class Section(NamedTuple):
    """A group of charts."""

    title: str
    figures: list[Figure]


class _Plot(NamedTuple):
    title: str
    remark: str
    curves: Sequence[tuple[str, str, Column]]
    """Style, name in the legend, and values."""


def plot_sections(run: Run, texts: Texts) -> list[Section]:
    """Returns all columns of a run as groups of charts; each column is in one chart.

    Args:
      run: The run.
      texts: Its numbers as text.
    """
    if not run.epochs:
        return []
    groups = {
        "Scores": _score_plots(run),
        "Losses": _loss_plots(run),
        "Training": _training_plots(run),
    }
    sections = [
        Section(title, [_figure(run, texts, plot, both=title == "Losses") for plot in plots])
        for title, plots in groups.items()
    ]
    return [section for section in sections if section.figures]


def _score_plots(run: Run) -> Iterator[_Plot]:
    """Yields what only validation measures; student and teacher share a chart."""
    losses = {column.name for column in run.columns if column.group == "train"}
    scores = {c.name: c for c in run.columns if c.group == "validation" and c.name not in losses}
    compared = [
        (style, role, scores.pop(f"{role}_miou"))
        for style, role in (("validation", "student"), ("teacher", "teacher"))
        if f"{role}_miou" in scores
    ]
    if compared:
        yield _Plot("mIoU", "on validation images", compared)
    for name, column in scores.items():
        yield _Plot(format_name(name), "", [("validation", "validation", column)])


def _loss_plots(run: Run) -> Iterator[_Plot]:
    """Yields the total loss, then its terms with their weights."""
    trained = [c for c in run.columns if c.group == "train" and not c.name.startswith(_NOT_LOSSES)]
    for column in sorted(trained, key=lambda column: column.name != "total"):
        weight = _loss_weight(run, column.name)
        measured = run.column("validation", column.name)
        curves = [("train", "train", column)]
        if measured:
            curves.append(("validation", "validation", measured))
        remark = f"weight {weight:g}" if isinstance(weight, int | float) else ""
        yield _Plot(format_name(column.name), remark, curves)


def _loss_weight(run: Run, name: str) -> object:
    weight = run.setting(f"losses.{name}")
    return weight.get("weight") if isinstance(weight, Mapping) else weight


def _training_plots(run: Run) -> Iterator[_Plot]:
    """Yields the other numbers: what is set for each epoch, and what it costs."""
    for column in run.columns:
        if column.group == "train" and column.name.startswith(_NOT_LOSSES):
            yield _Plot(format_name(column.name), "", [("train", "train", column)])
    seconds = [
        (column.name if column.name in _LEARNING else "other", column.name, column)
        for column in run.columns
        if column.group == "seconds"
    ]
    if seconds:
        yield _Plot("Time", "seconds per epoch", seconds)
    others = [c for c in run.columns if c.group not in (*_LEARNING, "seconds")]
    for column in sorted(others, key=lambda column: column.group):
        title = format_name(f"{column.group} {column.name}".strip())
        yield _Plot(title, "", [("other", "", column)])


def _figure(run: Run, texts: Texts, plot: _Plot, *, both: bool) -> Figure:
    """Returns a chart, on a linear and on a logarithmic scale if `both`."""
    legend, spoken = [], []
    for style, name, column in plot.curves:
        values = texts[column.key]
        legend.append(Entry(style, name, 1 + list(texts).index(column.key), values[-1]))
        spoken.append(f"{name} {values[0]} to {values[-1]}")
    series = [chart.Series(style, column.values) for style, _, column in plot.curves]
    scales = (False, True) if both else (False,)
    return Figure(
        plot.title,
        plot.remark,
        legend,
        f"{plot.title} from epoch {run.epochs[0]} to {run.epochs[-1]}: {', '.join(spoken)}",
        [chart.layout(run.epochs, series, logarithmic=scale) for scale in scales],
    )
