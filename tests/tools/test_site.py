"""The pages of the documentation site; `make docs` builds all of it."""

import importlib.util
from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe", reason="needs the extra `docs`")
pytest.importorskip("mkdocs", reason="needs the extra `docs`")

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("site_pages", ROOT / "tools/website/pages.py")
assert SPEC is not None
assert SPEC.loader is not None
pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pages)


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("[a](docs/losses.md#features)", "[a](losses.md#features)"),
        ("![a](docs/demo.jpg)", "![a](demo.jpg)"),
        ("[a](configs/masks.yaml)", "[a](files/configs/masks.yaml.md)"),
        ("[a](https://arxiv.org/abs/1)", "[a](https://arxiv.org/abs/1)"),
        ("`[a](docs/losses.md)`", "`[a](docs/losses.md)`"),
        ("```sh\n[a](docs/losses.md)\n```", "```sh\n[a](docs/losses.md)\n```"),
        ("`a $x\nb $y`", "`a $x\nb $y`"),
    ],
)
def test_links_of_the_repository_lead_to_pages(markdown: str, shown: str) -> None:
    assert pages.shown(markdown, "README.md", "index.md") == shown


def test_links_are_relative_to_the_page() -> None:
    link = pages.shown("[a](../losses.md) [b](../../configs/masks.yaml)", "docs/b/c.md", "b/c.md")
    assert link == "[a](../losses.md) [b](../files/configs/masks.yaml.md)"


def test_formulas_are_mathml() -> None:
    shown = pages.shown("$T_0$ and\n\n$$x^2$$\n", "docs/losses.md", "losses.md")
    assert shown.count("<math") == 2
    assert "$" not in shown


def test_public_names_without_a_docstring_are_found(tmp_path: Path) -> None:
    (tmp_path / "little.py").write_text('''"""A module."""

__all__ = ["DESCRIBED", "Bare", "Described", "VALUE"]
VALUE = 1
DESCRIBED = 2
"""Two."""


class Bare: ...


class Described:
    """A class.

    Args:
      a: An argument.
    """

    a: int
    b: int

    def __init__(self) -> None:
        self.inner = 1

    def method(self): ...
    def _hidden(self): ...
''')
    module = griffe.load("little", search_paths=[tmp_path])
    assert set(pages._undocumented(module)) == {
        "little.VALUE",
        "little.Bare",
        "little.Described.b",
        "little.Described.method",
    }
