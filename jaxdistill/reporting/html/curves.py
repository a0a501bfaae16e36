"""The curves: which numbers share a chart, and what stands above it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxdistill.reporting.html import chart
from jaxdistill.reporting.html.folder import Column, Key, Run
from jaxdistill.reporting.html.form import text, words

# How what is in `train`, but is no loss, begins.
_COURSE = ("learning_rate", "temperature", "gradient_norm", "feature_weight")
_LEARNING = ("train", "validation")
Texts = Mapping[Key, Sequence[str]]
"""Every number as text, in the order of the table of numbers."""


class _Plot(NamedTuple):
    title: str
    remark: str
    curves: Sequence[tuple[str, str, Column]]
    """Look, name in the legend, and values."""


def charts(run: Run, written: Texts) -> str:
    """All columns, as groups of small charts; each column is in one of them."""
    if not run.epochs:
        return "<p>No epoch has ended yet.</p>"
    groups = {
        "Scores": list(_score_plots(run)),
        "Losses": list(_loss_plots(run)),
        "Course": list(_course_plots(run)),
    }
    return "".join(
        f'<section class="{title.lower()}"><h3>{title}</h3><div class="charts">'
        + "".join(_figure(run, written, plot, logarithmic=title == "Losses") for plot in plots)
        + "</div></section>"
        for title, plots in groups.items()
        if plots
    )


def _score_plots(run: Run) -> Iterator[_Plot]:
    """What only validation measures; student and teacher together."""
    losses = {column.name for column in run.columns if column.group == "train"}
    scores = {c.name: c for c in run.columns if c.group == "validation" and c.name not in losses}
    compared = [
        (look, role, scores.pop(f"{role}_miou"))
        for look, role in (("validation", "student"), ("teacher", "teacher"))
        if f"{role}_miou" in scores
    ]
    if compared:
        yield _Plot("mIoU", "on validation pictures", compared)
    for name, column in scores.items():
        yield _Plot(words(name), "", [("validation", "validation", column)])


def _loss_plots(run: Run) -> Iterator[_Plot]:
    """What training minimises: the total, then its terms with their weights."""
    trained = [c for c in run.columns if c.group == "train" and not c.name.startswith(_COURSE)]
    for column in sorted(trained, key=lambda column: column.name != "total"):
        weight = run.setting(f"losses.{column.name}")
        measured = run.column("validation", column.name)
        curves = [("train", "train", column)]
        if measured:
            curves.append(("validation", "validation", measured))
        remark = f"weight {weight:g}" if isinstance(weight, int | float) else ""
        yield _Plot(words(column.name), remark, curves)


def _course_plots(run: Run) -> Iterator[_Plot]:
    """The rest: what is set for each epoch, and what it costs."""
    for column in run.columns:
        if column.group == "train" and column.name.startswith(_COURSE):
            yield _Plot(words(column.name), "", [("train", "train", column)])
    seconds = [
        (column.name if column.name in _LEARNING else "other", column.name, column)
        for column in run.columns
        if column.group == "seconds"
    ]
    if seconds:
        yield _Plot("Time", "seconds per epoch", seconds)
    others = [c for c in run.columns if c.group not in (*_LEARNING, "seconds")]
    for column in sorted(others, key=lambda column: column.group):
        title = words(f"{column.group} {column.name}".strip())
        yield _Plot(title, "", [("other", "", column)])


def _figure(run: Run, written: Texts, plot: _Plot, *, logarithmic: bool) -> str:
    """A chart under its title and a legend of the marked epoch's values, the latest at first."""
    legend, spoken = [], []
    for look, name, column in plot.curves:
        first, latest = written[column.key][0], written[column.key][-1]
        number = 1 + list(written).index(column.key)
        legend.append(
            f'<div class="{look}"><dt>{text(name)}</dt>'
            f'<dd data-column="{number}">{text(latest)}</dd></div>'
        )
        spoken.append(f"{name} {first} to {latest}")
    series = [chart.Series(look, column.values) for look, _, column in plot.curves]
    label = f"{plot.title} from epoch {run.epochs[0]} to {run.epochs[-1]}: {', '.join(spoken)}"
    scales = (False, True) if logarithmic else (False,)
    return (
        f"<figure><figcaption><h4>{text(plot.title)}</h4><small>{text(plot.remark)}</small>"
        f"<dl>{''.join(legend)}</dl></figcaption>"
        + "".join(chart.draw(run.epochs, series, label, logarithmic=scale) for scale in scales)
        + "</figure>"
    )
