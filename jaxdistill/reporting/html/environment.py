"""The Jinja environment of the pages, and the files that they contain as they are."""

from functools import cache
from importlib import resources

import jinja2
from markupsafe import Markup

from jaxdistill.reporting.html.formatting import format_value

_PACKAGE = "jaxdistill.reporting.html"


@cache
def environment() -> jinja2.Environment:
    """Returns the environment of the templates of this package."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["value"] = format_value
    return made


def static(name: str) -> Markup:
    """Returns a file beside the templates, to be put into a page unescaped.

    Args:
      name: The file, such as `style.css`.
    """
    path = resources.files(_PACKAGE).joinpath("templates", name)
    return Markup(path.read_text(encoding="utf-8"))
