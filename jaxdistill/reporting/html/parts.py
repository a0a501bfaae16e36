"""The plainer parts of the page: the line below its title, samples, numbers, facts."""

import re
from collections import Counter
from pathlib import PurePath

from jaxdistill.reporting.html.curves import Texts
from jaxdistill.reporting.html.folder import Facts, Run
from jaxdistill.reporting.html.form import fact, text
from jaxdistill.reporting.html.samples import Album


def subtitle(run: Run) -> str:
    """What learns from what."""
    size = run.setting("data.image_size")
    parts = [
        run.setting("student.encoder"),
        " \N{MULTIPLICATION SIGN} ".join(map(str, size)) if isinstance(size, list) else None,
        *(
            f"{role} {PurePath(str(path)).name}"
            for role in ("teacher", "detector")
            if (path := run.setting(f"{role}.onnx"))
        ),
        f"updated {run.updated:%Y-%m-%d %H:%M %Z}" if run.updated else None,
    ]
    return " ".join(f"<span>{text(part)}</span>" for part in parts if part)


def samples(album: Album) -> str:
    """Every sheet as a picture, of which the latest is shown."""
    if not album.sheets:
        return "<p>No samples yet.</p>"
    latest = album.sheets[-1]
    pictures = "".join(
        f'<img src="{sheet.uri}" width="{sheet.width}" height="{sheet.height}" '
        f'data-epoch="{sheet.epoch}" alt="Samples of epoch {sheet.epoch}" decoding="sync"'
        f"{'' if sheet is latest else ' hidden'}>"
        for sheet in album.sheets
    )
    left_out = ""
    if len(album.sheets) < album.of:
        left_out = (
            f"<p>{len(album.sheets)} of {album.of} epochs, to keep the page small: "
            f"one in {album.every}, the best, and the latest. "
            f"All of them are in the run's folder <code>samples</code>.</p>"
        )
    return f'{left_out}<div class="sheet" tabindex="0">{pictures}</div>'


def numbers(run: Run, written: Texts) -> str:
    """A row per epoch and a column per number; the script reads the values from here."""
    groups = Counter(group for group, _ in written)
    tops = "".join(
        f'<th colspan="{count}" scope="colgroup">{text(group)}</th>'
        for group, count in groups.items()
    )
    names = "".join(f'<th scope="col">{text(name)}</th>' for _, name in written)
    body = "".join(
        f'<tr{" class=best" if epoch == run.best else ""}><th scope="row">{epoch}</th>'
        + "".join(f"<td>{text(values[place])}</td>" for values in written.values())
        + "</tr>"
        for place, epoch in enumerate(run.epochs)
    )
    return (
        f'<thead><tr><th rowspan="2" scope="col">epoch</th>{tops}</tr><tr>{names}</tr></thead>'
        f"<tbody>{body}</tbody>"
    )


def facts(sections: Facts) -> str:
    """A card per section."""
    return "".join(
        f"<section><h3>{text(title)}</h3><dl>"
        + "".join(
            f"<div><dt>{text(name)}</dt><dd>{_with_digests(fact(value))}</dd></div>"
            for name, value in section.items()
        )
        + "</dl></section>"
        for title, section in sections.items()
    )


def _with_digests(value: str) -> str:
    """Fingerprints in type that makes them readable."""
    return re.sub(r"\b[0-9a-f]{32,}\b", r"<code>\g<0></code>", text(value))
