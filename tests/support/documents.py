"""What README and docs hold: commands, blocks of code, text."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Command(NamedTuple):
    document: Path
    line: str

    @property
    def words(self) -> list[str]:
        """Without comments, and without variables set for it alone."""
        words = shlex.split(self.line, comments=True)
        while re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        return words

    @property
    def program(self) -> list[str] | None:
        """Arguments of Python that run the command; None for another program."""
        first, *rest = self.words
        if Path(first).name == "jaxdistill":
            return ["-m", "jaxdistill", *rest]
        return rest if Path(first).name in ("python", "python3") else None

    def __str__(self) -> str:
        return f"{document_name(self.document)}: {' '.join(self.words)}"


def document_name(document: Path) -> str:
    return str(document.relative_to(ROOT)).removeprefix("docs/")


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.M | re.S)


def commands(document: Path) -> Iterator[Command]:
    """Lines of shell blocks, and whole commands within the text, in the document's order."""
    shell = r"^```sh\n(?P<block>.*?)^```$"
    program = r"(?:python (?:-m jaxdistill|tools/)|jaxdistill [a-z]|make )"
    inline = rf"(?<!`)`(?P<inline>{program}[^`]*)`(?!`)"
    for found in re.finditer(f"{shell}|{inline}", document.read_text(), re.M | re.S):
        if found["inline"]:
            line = " ".join(found["inline"].split())
            names_only = len(line.split()) <= (2 if line.startswith("jaxdistill ") else 3)
            if line.startswith("make ") or not (names_only or "..." in line):
                yield Command(document, line)
            continue
        for line in found["block"].replace("\\\n", " ").splitlines():
            if shlex.split(line, comments=True):
                yield Command(document, line)


def prose(document: Path) -> str:
    """Without blocks of code."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)
