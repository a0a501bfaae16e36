"""The run's page, `report.html`: one file with all that a run's folder tells, for any browser.

It is made from that folder alone, and can be made anew at any time. It needs nothing beside itself:
pictures, style and script are in it, and its content security policy lets nothing else in. Charts,
numbers, facts and the latest samples show without the script too, which adds the value under the
pointer and the way from epoch to epoch.

From the folder it reads `config.yaml`, and what there is of:

`metrics.jsonl`: a line per epoch, as `report.Report` writes it:

    {"epoch": 1, "train": {"total": 2.5, ...}, "validation": {"student_miou": 0.8, ...},
     "seconds": {"train": 60.1, "validation": 8.2}, "images_per_second": 2.7, ...}

`train` and `validation` hold losses where both or the first has them, and scores where only the
second has them. Any other group, and any number beside the groups, is drawn and listed as well.

`samples/epoch_001.png`, ...: the sheets of sample pictures.

`provenance.json`: what holds for the whole run, in sections that keep their order:

    {"Data": {"training pictures": 160, "training fingerprint": "9f2c..."},
     "Environment": {"python": "3.11.2", "devices": ["cpu"]}, ...}

A fact is text, a number, true, false, null, or a list of these; units belong into its name or text.
"""

import base64
import hashlib
from importlib import resources
from pathlib import Path
from string import Template

from jaxdistill.reporting.html import parts
from jaxdistill.reporting.html.curves import charts
from jaxdistill.reporting.html.folder import Run, read
from jaxdistill.reporting.html.form import text, texts
from jaxdistill.reporting.html.headlines import headlines
from jaxdistill.reporting.html.samples import embed
from jaxdistill.runtime import files

NAME = "report.html"


def write(run: Path) -> Path:
    """Writes the page of a run into its folder; whoever opens it meanwhile sees the one before.

    Raises:
      UserError: the folder is not a run, or a file in it cannot be read.
    """
    page = run / NAME
    files.write_atomic(page, render(run))
    return page


def render(run: Path) -> str:
    """The page of a run, as HTML. The same folder gives the same page.

    Raises:
      UserError: the folder is not a run, or a file in it cannot be read.
    """
    found = read(run)
    script = _part("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_part("template.html")).substitute(
        script=script,
        script_digest=digest,
        style=_part("style.css"),
        **_contents(found),
    )


def _contents(run: Run) -> dict[str, str]:
    written = texts(run.columns)
    return {
        "title": text(run.name),
        "subtitle": parts.subtitle(run),
        "headlines": headlines(run),
        "charts": charts(run, written),
        "samples": parts.samples(embed(run.samples, run.best)),
        "numbers": parts.numbers(run, written),
        "facts": parts.facts(run.facts),
        "configuration": text(run.configuration),
    }


def _part(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
