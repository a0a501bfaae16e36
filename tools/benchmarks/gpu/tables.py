#!/usr/bin/env python3
"""Makes tables of the results of `check.py`.

    python tools/benchmarks/gpu/tables.py build/gpu_check/results/results.jsonl
    python tools/benchmarks/gpu/tables.py RESULTS.jsonl --write docs/gpu.md

With `--write`, the tables of this card replace those that the page has, or are appended to it.
Where something was measured several times with the same settings (`XLA_FLAGS` and
`JAXDISTILL_PLAIN_OPS`), the last result counts; what is compared with the original has no such
settings. Of tests that fail and of errors, those of the last run are shown that had the stage.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import results

Result = dict[str, Any]
_CELL = Callable[[Result], Any]
_LONGEST = 12  # launches of a profile
_SETTINGS = ("flags", "plain_ops")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments; prints the tables or writes them into a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="a Markdown file")
    args = parser.parse_args(arguments)
    found = [result for path in args.results for result in results.read(path)]
    card, text = section(found)
    if args.write:
        args.write.write_text(replaced(args.write.read_text(), card, text))
    else:
        print(text)


def section(found: Sequence[Result]) -> tuple[str, str]:
    """Returns the card's name and the section about it, in Markdown.

    Args:
      found: The results.
    """
    cards = of(found, "card")
    about = cards[-1] if cards else {"name": "an unknown card"}
    name = about["name"]
    versions = ", ".join(
        f"{key} {value}"
        for key, value in about.items()
        if key not in ("kind", "name", "platform", "run") and value
    )
    blocks = [
        f"### {name}",
        f"Measured by `tools/benchmarks/gpu/check.py`; {versions}." if versions else "",
        _ceilings(found),
        *(make(found) for make in _TABLES),
    ]
    return name, "\n\n".join(filter(None, blocks)) + "\n"


def replaced(page: str, card: str, text: str) -> str:
    """Returns a page with the tables of a card.

    Args:
      page: The page in Markdown.
      card: The card's name.
      text: Its section.
    """
    begin, end = f"<!-- begin results: {card} -->", f"<!-- end results: {card} -->"
    block = f"{begin}\n{text}{end}\n"
    pattern = re.compile(rf"{re.escape(begin)}.*?{re.escape(end)}\n", re.DOTALL)
    if pattern.search(page):
        return pattern.sub(lambda _: block, page)
    return f"{page.rstrip()}\n\n{block}"


def of(found: Iterable[Result], kind: str, *keys: str) -> list[Result]:
    """Returns the results of a kind without errors, the last one for every value of some keys."""
    good = [each for each in found if each["kind"] == kind and not {"error", "skipped"} & set(each)]
    return list({tuple(str(each.get(key)) for key in keys): each for each in good}.values())


def table(rows: Sequence[Result], columns: dict[str, str | _CELL]) -> str:
    """Returns a Markdown table.

    Args:
      rows: Results.
      columns: By heading, the key of the cells, or a function of the result.
    """
    if not rows:
        return ""
    lines = [list(columns), ["---"] * len(columns)]
    for row in rows:
        cells = [row.get(c) if isinstance(c, str) else c(row) for c in columns.values()]
        lines.append(["" if cell is None else str(cell).replace("|", "\\|") for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ceilings(found: Sequence[Result]) -> str:
    parts = [f"copying {each['TB_per_s']} TB/s" for each in of(found, "copy")]
    parts += [
        f"{each['precision']} products {each['TFLOP_per_s']} TFLOP/s"
        for each in of(found, "product", "precision")
    ]
    return f"Ceilings: {', '.join(parts)}." if parts else ""


def _steps(found: Sequence[Result]) -> str:
    rows = of(found, "step", "precision", "batch", *_SETTINGS)
    rows.sort(key=lambda each: (each["precision"] != "float32", each["batch"], _settings(each)))
    return table(
        rows,
        {
            **{"student's step": "precision", "batch": "batch", "flags": _settings, "ms": "ms"},
            **{"images/s": "images_per_s", "floor, ms": "floor_ms"},
            "share of the floor": _percent("share_of_floor"),
            **{"GB": "GB", "launches": "launches", "compile, s": "compile_s"},
            "temporary, GB": "temporary_GB",
        },
    )


def _torch(found: Sequence[Result]) -> str:
    ratio = _ratio(of(found, "step", "precision", "batch", *_SETTINGS))

    return table(
        of(found, "torch", "precision", "batch", "mode", "layout"),
        {
            **{"the original's student step": "precision", "batch": "batch", "mode": "mode"},
            **{"layout": "layout", "ms": "ms", "images/s": "images_per_s"},
            **{"peak, GB": "peak_GB", "ours is faster by": ratio},
        },
    )


def _whole(found: Sequence[Result]) -> str:
    rows = of(found, "whole", "precision", "batch", "contestant", *_SETTINGS)
    ratio = _ratio([each for each in rows if each["contestant"] == "ours"])

    def contestant(row: Result) -> str:
        return f"{row['contestant']} {_settings(row)}".rstrip()

    def part(name: str) -> _CELL:
        return lambda row: row["parts"].get(name)

    return table(
        rows,
        {
            **{"whole step": "precision", "batch": "batch", "of": contestant, "ms": "ms"},
            **{"images/s": "images_per_s", "teacher, ms": part("teacher")},
            **{"detector, ms": part("detector"), "student's step, ms": part("student step")},
            **{"peak without onnxruntime, GB": "peak_GB", "ours is faster by": ratio},
        },
    )


def _settings(row: Result) -> str:
    """Returns the settings of the environment that a result was measured with."""
    plain = row.get("plain_ops")
    return " ".join(filter(None, [row.get("flags"), plain and f"{results.PLAIN_OPS}={plain}"]))


def _ratio(steps: Sequence[Result]) -> _CELL:
    """Returns a cell: by how much our milliseconds, at the default settings, are fewer."""
    ours = {(each["precision"], each["batch"]): each["ms"] for each in steps if not _settings(each)}

    def cell(row: Result) -> str | None:
        own = ours.get((row["precision"], row["batch"]))
        return f"{row['ms'] / own:.2f} x" if own else None

    return cell


def _profile(found: Sequence[Result]) -> str:
    profiles = of(found, "profile", "precision", "batch")
    if not profiles:
        return ""
    last = profiles[-1]
    rows = table(
        last["launches"][:_LONGEST],
        {
            **{"launch": "name", "us": "us", "floor, us": "floor_us", "MB": "MB"},
            "operation": lambda row: row["operation"][-60:],
        },
    )
    about = f"{last['precision']}, batch {last['batch']}: {last['ms']} ms in kernels, floor "
    return f"Launches that are furthest from their floor, {about}{last['floor_ms']} ms.\n\n{rows}"


def _forms(found: Sequence[Result]) -> str:
    def part(name: str) -> _CELL:
        return lambda row: row["us"].get(name)

    return table(
        of(found, "form", "operation", "form", "precision"),
        {
            **{"operation": "operation", "batch": "batch", "form": "form"},
            "precision": "precision",
            **{"us": part("value"), "input's gradient, us": part("input_gradient")},
            "weights' gradient, us": part("weight_gradient"),
        },
    )


def _onnx(found: Sequence[Result]) -> str:
    return table(
        of(found, "onnx", "network", "batch", "options"),
        {
            **{"network": "network", "side": "side", "batch": "batch", "options": "options"},
            **{"ms per image": "ms_per_image", "opening and first call, s": "open_and_first_s"},
        },
    )


def _run(found: Sequence[Result]) -> str:
    rows = []
    for each in of(found, "train"):
        scores = each.get("scores", {})
        text = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
        what = f"{each['epochs']} epochs, {each.get('images_per_s')} images/s, start-up "
        rows.append(_line("whole run", each, f"{what}{each.get('start_up_s')} s; {text}"))
    for each in of(found, "resume"):
        text = ", ".join(f"{key} {value:+.4f}" for key, value in each["difference"].items())
        rows.append(_line("stopped and resumed", each, f"against the whole run: {text or '?'}"))
    for each in of(found, "export"):
        size = f"{each['bytes'] / 1e6:.1f} MB" if each["bytes"] else ""
        rows.append(_line("export to ONNX", each, size))
    return table(rows, {"run": "what", "exit code": "exit", "seconds": "seconds", "": "text"})


def _line(what: str, each: Result, text: str) -> Result:
    return {"what": what, "exit": each["exit"], "seconds": each["seconds"], "text": text}


def _tests(found: Sequence[Result]) -> str:
    finished = of(found, "tests")
    if not finished:
        return ""
    last = finished[-1]
    kinds = ("passed", "failed", "error", "skipped")
    counts = ", ".join(f"{last[kind]} {kind}" for kind in kinds if kind in last)
    return f"Fast tests: {counts}{'' if last['complete'] else ' before the time was up'}."


def _current(found: Sequence[Result]) -> list[Result]:
    """Returns the results of the last run that measured something of their kind."""

    def measured(row: Result) -> str:
        return "tests" if row["kind"] == "failed test" else row["kind"]

    last = {measured(each): each.get("run") for each in found}
    return [each for each in found if each.get("run") == last[measured(each)]]


def _failed(found: Sequence[Result]) -> str:
    return table(
        of(_current(found), "failed test", "name"), {"failed test": "name", "message": "message"}
    )


def _errors(found: Sequence[Result]) -> str:
    rows = [each for each in _current(found) if "error" in each and each["kind"] != "tests"]
    return table(rows, {"not measured": _described, "error": "error"})


def _described(row: Result) -> str:
    kept = (value for key, value in row.items() if key not in ("error", "run"))
    return " ".join(str(value) for value in kept if value != "")


def _stages(found: Sequence[Result]) -> str:
    rows = of(found, "stage", "name")
    return table(rows, {"stage": "name", "seconds": "seconds", "exit code": _codes})


def _codes(row: Result) -> str:
    return ", ".join(map(str, row["exit"]))


_TABLES = (_steps, _whole, _torch, _profile, _forms, _onnx, _run, _tests, _failed, _errors, _stages)


def _percent(key: str) -> _CELL:
    return lambda row: None if row.get(key) is None else f"{100 * row[key]:.0f} %"


if __name__ == "__main__":
    main()
