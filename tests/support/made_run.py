"""A run folder made up for tests of the HTML report, and the report as a test reads it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import yaml
from PIL import Image

SETTINGS = {
    "data": {"image_size": [320, 256]},
    "student": {"encoder": "tf_efficientnet_lite0"},
    "teacher": {"onnx": "models/large_teacher.onnx"},
    "losses": {"bce": 0.25},
    "training": {"epochs": 5},
}
PROVENANCE = {
    "Data": {"training images": 118287, "training fingerprint": "9f" * 32},
    "Environment": {"devices": ["cpu:0", "cpu:1"], "float64": False, "share": 0.5, "gpu": None},
}


def line(epoch: int, **values: object) -> dict[str, object]:
    """Returns a line of `metrics.jsonl` for epoch 1, 2 or 3, of which the second is the best."""
    return {
        "epoch": epoch,
        "train": {
            "bce": 0.9 / epoch,
            "learning_rate": 1e-3 / epoch,
            "temperature": 3.0,
            "total": 30.0 / epoch,
        },
        "validation": {
            "agreement": 0.9 + epoch / 100,
            "bce": 0.8 / epoch,
            "student_miou": (0.7, 0.81234, 0.8)[epoch - 1],
            "teacher_miou": 0.95,
            "total": 20.0 / epoch,
        },
        "seconds": {"train": 60.0, "validation": 12.0},
        "images_per_second": 2.5,
        **values,
    }


def make(
    run: Path, lines: list[dict], settings: dict = SETTINGS, provenance: dict | None = None
) -> Path:
    """Writes the files of a run folder, with a sample grid for each line."""
    (run / "samples").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    if provenance is not None:
        (run / "provenance.json").write_text(json.dumps(provenance))
    for one in lines:
        grid = Image.new("RGB", (50, 30), (40 * one["epoch"] % 256, 0, 0))
        grid.save(run / "samples" / f"epoch_{one['epoch']:03d}.png")
    return run


class Page(HTMLParser):
    """The report as a browser without scripts sees it; refuses tags that do not match."""

    VOID = ("meta", "link", "img", "input", "rect", "line", "circle", "polyline")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        """The visible text, with single spaces."""
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all tags of that name."""
        return [attributes for name, attributes in self.tags if name == tag]


def rows(html: str) -> list[list[str]]:
    """The cells of the table of numbers, as text."""
    body = html[html.index("<tbody>") : html.index("</tbody>")]
    return [re.findall(r"<t[hd][^>]*>([^<]*)", row) for row in body.split("<tr")[1:]]
