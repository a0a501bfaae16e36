"""Pages of the documentation site that no file in docs/ holds, for MkDocs (`hooks` in mkdocs.yml).

- README.md, CHANGELOG.md, CONTRIBUTING.md and the table of parity are pages.
- Each other file outside docs/ that a document links to is a page as well, so that the site needs
  no other host: links in the documents stay those that work in the repository.
- docs/quickstart.ipynb is a page; it is not run. Formulas are converted to MathML.
- The pages of the API list what `__all__` of a public package names. A name without a docstring is
  a warning, which `mkdocs build --strict` makes an error.
- The page of the commands holds the text of their `--help`.
"""

import contextlib
import importlib
import io
import json
import logging
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import griffe
import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LOG = logging.getLogger("mkdocs.hooks.pages")
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "docs/quickstart.ipynb": "quickstart.md",
    "tests/parity/README.md": "parity.md",
}
"""Pages of files outside docs/ that are in the navigation."""
API = {
    "jaxdistill": "The package",
    "jaxdistill.data": "Data",
    "jaxdistill.models": "Models",
    "jaxdistill.models.layers": "Layers",
    "jaxdistill.models.functional": "Functions of feature maps",
    "jaxdistill.losses": "Losses",
    "jaxdistill.teachers": "Teachers",
    "jaxdistill.training": "Training",
    "jaxdistill.evaluation": "Evaluation",
    "jaxdistill.exporters": "Exporters",
    "jaxdistill.analysis": "Analysis",
    "jaxdistill.config": "Configuration",
    "jaxdistill.types": "Types",
    "jaxdistill.runtime.errors": "Errors",
}
"""Public packages and modules, and the titles of their pages."""
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$]+)\$", re.S)
CODE = re.compile(r"(^```.*?^```$|(?<!`)`[^`]+`(?!`))", re.M | re.S)
COMMANDS_HEAD = """# Commands

Each command is also `python -m jaxdistill COMMAND`. The exit code is 2 after an error that you can
correct; the page on [troubleshooting](troubleshooting.md) lists the codes of the errors."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for source in (source for source in PAGES if (ROOT / source).exists()):
        _add(files, config, PAGES[source], _content(ROOT / source), source)
    for uri, content in {"commands.md": _commands(), **dict(_api())}.items():
        _add(files, config, uri, content, f"docs/{uri}")
    queue = [file for file in files.documentation_pages() if not file.src_uri.startswith("api/")]
    while queue:
        file = queue.pop()
        for target in _linked(file):
            uri = _uri(target)
            if target.startswith("docs/") or files.get_file_from_path(uri):
                continue
            if not (ROOT / target).is_file():
                LOG.warning("%s: a link leads to %s, which is no file", file.src_uri, target)
                continue
            content = _content(ROOT / target)
            queue.append(_add(files, config, uri, content, target, InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links to files of the repository to the pages that show them; converts formulas."""
    return shown(markdown, _source(page.file), page.file.src_uri)


def shown(markdown: str, source: str, uri: str) -> str:
    """Returns the Markdown of a page.

    Args:
      markdown: That of the repository.
      source: Path in the repository, to which its links are relative.
      uri: Path of the page, below docs/.
    """

    def changed(text: str) -> str:
        return FORMULA.sub(_mathml, LINK.sub(lambda link: _moved(link, source, uri), text))

    return _outside_code(markdown, changed)


def _mathml(formula: re.Match) -> str:
    """Returns a formula as MathML, which browsers draw without a script."""
    if formula["block"]:
        return latex2mathml.converter.convert(formula["block"], display="block")
    # Within a span, because Markdown would take <math> at the start of a line for a paragraph.
    return f"<span>{latex2mathml.converter.convert(formula['inline'])}</span>"


def _moved(link: re.Match, source: str, uri: str) -> str:
    before, target, anchor, after = link.groups()
    if re.match(r"[a-z]+:", target):
        return link[0]
    target = _uri(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)))
    moved = posixpath.relpath(target, posixpath.dirname(uri) or ".")
    return f"{before}{moved}{anchor or ''}{after}"


def _linked(file: File) -> Iterator[str]:
    """Yields the paths in the repository that a page links to."""
    folder = posixpath.dirname(_source(file))
    texts: list[str] = []
    _outside_code(file.content_string, lambda text: texts.append(text) or text)
    for link in LINK.finditer("".join(texts)):
        if not re.match(r"[a-z]+:", link[2]):
            yield posixpath.normpath(posixpath.join(folder, link[2]))


def _outside_code(markdown: str, change) -> str:
    """Changes the text between blocks and spans of code."""
    return "".join(
        part if index % 2 else change(part) for index, part in enumerate(CODE.split(markdown))
    )


def _uri(source: str) -> str:
    """Returns the page, or the file of the site, that shows a file of the repository."""
    if source in PAGES:
        return PAGES[source]
    return source.removeprefix("docs/") if source.startswith("docs/") else f"files/{source}.md"


def _source(file: File) -> str:
    """Returns the path in the repository of what a page shows."""
    return getattr(file, "shows", f"docs/{file.src_uri}")


def _add(
    files: Files,
    config: MkDocsConfig,
    uri: str,
    content: str,
    source: str,
    inclusion: InclusionLevel = InclusionLevel.UNDEFINED,
) -> File:
    file = File.generated(config, uri, content=content, inclusion=inclusion)
    file.shows = source
    files.append(file)
    return file


def _content(path: Path) -> str:
    """Returns the page of a file: text as it is, a notebook's cells, or a block of code."""
    text = path.read_text()
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        cells = ((cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"])
        return "\n\n".join(c if kind == "markdown" else f"```python\n{c}\n```" for kind, c in cells)
    language = {".yaml": "yaml", ".py": "python"}.get(path.suffix, "text")
    return f"# {path.relative_to(ROOT)}\n\n```{language}\n{text}```\n"


def _commands() -> str:
    """Returns the page of the commands, from their parsers."""
    from jaxdistill.__main__ import COMMANDS

    os.environ["COLUMNS"] = "80"
    page = [COMMANDS_HEAD]
    for name in COMMANDS:
        module = importlib.import_module(f"jaxdistill.commands.{name.replace('-', '_')}")
        printed = io.StringIO()
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(printed):
            module.main(["--help"])
        page.append(f"## {name}\n\n```text\n{printed.getvalue().rstrip()}\n```")
    return "\n\n".join(page) + "\n"


def _api() -> Iterator[tuple[str, str]]:
    """Yields the API's pages, and warns of public names without a docstring."""
    package = griffe.load(
        "jaxdistill",
        search_paths=[ROOT],
        extensions=griffe.load_extensions("griffe_pydantic"),
        resolve_aliases=True,
    )
    for name, title in API.items():
        module = package[name.partition(".")[2]] if "." in name else package
        for undocumented in _undocumented(module):
            LOG.warning("%s has no docstring", undocumented)
        yield f"api/{name}.md", f"# {title}: `{name}`\n\n::: {name}\n"


def _undocumented(item: griffe.Object | griffe.Alias) -> Iterator[str]:
    """Yields the names of public things below an object, and of itself, without a docstring.

    What `__init__` assigns is part of the interface only where it has a docstring.
    """
    if not item.has_docstring:
        yield item.path
    if item.is_module:
        names = item.exports or [name for name, member in item.members.items() if member.is_public]
    else:
        names = [name for name in item.members if not name.startswith("_")] if item.is_class else []
    for name in map(str, names):
        member = item.members.get(name)
        if member is None or member.is_module or name.startswith("__") or name == "model_config":
            continue
        if item.is_class and (_is_described(item, name) or _is_of_an_instance(member)):
            continue
        yield from _undocumented(member)


def _is_of_an_instance(member: griffe.Object | griffe.Alias) -> bool:
    return member.is_attribute and "class-attribute" not in member.labels and member.value


def _is_described(item: griffe.Object | griffe.Alias, name: str) -> bool:
    """Whether a class describes an attribute among its arguments, or one of its bases does."""
    among_arguments = item.docstring and re.search(rf"^\s+{name}:", item.docstring.value, re.M)
    return bool(among_arguments) or any(
        name in base.members and base.members[name].has_docstring for base in item.mro()
    )
