"""The HTML report of a run, `report.html`: one self-contained file for any browser.

The report is made from the run folder alone and can be made again at any time. Images, style and
script are inside the file, and its content security policy blocks everything else. Charts, numbers,
provenance and the latest samples are visible without the script, which adds the values under the
pointer and the navigation between epochs.

`config.yaml` is required in the run folder; the other files are used where they exist:

`metrics.jsonl`: one line per epoch, as `MetricWriter.epoch` writes it:

    {"epoch": 1, "train": {"total": 2.5, ...}, "validation": {"student_miou": 0.8, ...},
     "seconds": {"train": 60.1, "validation": 8.2}, "images_per_second": 2.7, ...}

A name in `train` is a loss; a name in `validation` alone is a score. Every other group, and every
number outside of the groups, is drawn and listed as well.

`samples/epoch_001.png`, ...: the sample grids.

`provenance.json`: values that hold for the whole run, in sections that keep their order:

    {"Data": {"training images": 160, "training fingerprint": "9f2c..."},
     "Environment": {"python": "3.11.2", "devices": ["cpu"]}, ...}

A value is a text, a number, true, false, null, or a list of these. Units belong into its name or
text.
"""

import base64
import hashlib
from pathlib import Path

from jaxdistill.reporting.html import chart
from jaxdistill.reporting.html.environment import environment, static
from jaxdistill.reporting.html.formatting import format_texts, group_sizes
from jaxdistill.reporting.html.headlines import headlines, subtitle
from jaxdistill.reporting.html.plots import plot_sections
from jaxdistill.reporting.html.report_data import read
from jaxdistill.reporting.html.samples import embed
from jaxdistill.reporting.run_files import PAGE
from jaxdistill.runtime import files


def write(run: Path) -> Path:
    """Writes the report of a run into its folder.

    The file is replaced as a whole: a reader sees either the old report or the new one.

    Args:
      run: The run folder.

    Returns:
      The path of the report.

    Raises:
      RunError: See `render`.
      OSError: The report cannot be written.
    """
    page = run / PAGE
    files.write_atomic(page, render(run).encode())
    return page


def render(run: Path) -> str:
    """Returns the report of a run as HTML.

    The same folder always gives the same report.

    Args:
      run: The run folder.

    Raises:
      RunError: The folder is not a run (`not-a-run`), or one of its files cannot be read
        (`unreadable-report-file`) or is damaged (`damaged-report-file`).
      ConfigError: `config.yaml` is not valid YAML.
    """
    found = read(run)
    texts = format_texts(found.columns)
    script = static("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment().get_template("report.html")
    page = template.render(
        run=found,
        subtitle=subtitle(found),
        headlines=headlines(found),
        album=embed(found.samples, found.best),
        sections=plot_sections(found, texts),
        constants=chart,
        texts=texts,
        groups=group_sizes(texts),
        style=static("style.css"),
        script=script,
        script_digest=digest,
    )
    return page.encode(errors="replace").decode()  # a lone surrogate cannot be written to a file
