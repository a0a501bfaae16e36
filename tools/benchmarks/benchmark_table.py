"""Tables of the results of `benchmark_step.py`."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

ROWS = (
    "teacher",
    "detector",
    "augmentation",
    "cached targets",
    "student step",
    "forward",
    "backward",
    "update",
    "whole step",
)
INDENTED = ("forward", "backward", "update")


def show(measured: Mapping[str, Any], console: Console) -> None:
    """Prints seconds per image, then memory, compilation and arithmetic."""
    console.print(times(measured), costs(measured), sep="\n\n")


def times(measured: Mapping[str, Any]) -> Table:
    """Returns the table of the seconds per image of every part."""
    contestants, setting = measured["contestants"], measured["setting"]
    height, width = setting["size"]
    table = _table(
        f"seconds per image, {height} x {width}, batch {setting['batch']}, "
        f"{setting['precision']}, {setting['threads']} cores",
        list(contestants),
    )
    for part in ROWS:
        seconds = [contestant["median"].get(part) for contestant in contestants.values()]
        if any(seconds):
            original = contestants.get("original", {"median": {}})["median"].get(part)
            cells = [_time(value, original, setting["batch"]) for value in seconds]
            table.add_row(f"  {part}" if part in INDENTED else part, *cells)
    table.caption = "x: speed relative to the original"
    return table


def costs(measured: Mapping[str, Any]) -> Table:
    """Returns the table of memory, the first step, and the ratio of a whole step to the floor."""
    contestants, setting = measured["contestants"], measured["setting"]
    arithmetic = measured["arithmetic"]
    library, rate = max(arithmetic["rates"].items(), key=lambda item: item[1])
    table = _table("memory, compilation, arithmetic", list(contestants))
    rows: dict[str, list[str]] = {
        "device": [c["device"] for c in contestants.values()],
        "peak memory, GB": [_gigabytes(c["memory"]["host"]) for c in contestants.values()],
        "on the device, GB": [_gigabytes(c["memory"]["device"]) for c in contestants.values()],
        "first step with compilation, s": [
            f"{c['first step']:.1f}" if "first step" in c else "" for c in contestants.values()
        ],
        "GFLOP per image": [],
        "floor, s per image": [],
        "whole step / floor": [],
        "slowest / fastest step": [
            f"{max(seconds) / min(seconds):.2f}"
            for seconds in (c["seconds"]["whole step"] for c in contestants.values())
        ],
    }
    for name, contestant in contestants.items():
        flops = work(arithmetic["flops"], name)
        floor = flops / rate
        rows["GFLOP per image"].append(f"{flops / 1e9:.1f}")
        rows["floor, s per image"].append(f"{floor:.4f}")
        step = contestant["median"]["whole step"] / setting["batch"]
        rows["whole step / floor"].append(f"{step / floor:.2f}")
    for name, cells in rows.items():
        if any(cells):
            table.add_row(name, *cells)
    table.caption = (
        f"the floor assumes {rate / 1e9:.0f} GFLOP/s, the best matrix product here ({library}), "
        f"and the plain convolutions (GFLOP): "
        + ", ".join(f"{part} {count / 1e9:.1f}" for part, count in arithmetic["flops"].items())
        + "; if the slowest step took much longer than the fastest, the machine was busy: measure "
        "again"
    )
    return table


def work(flops: Mapping[str, float], contestant: str) -> float:
    """Returns the operations per image that a contestant computes in every step."""
    cached = ("teacher", "detector", "encoder") if contestant == "cached" else ()
    return sum(count for part, count in flops.items() if part not in cached)


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _time(seconds: float | None, original: float | None, batch: int) -> str:
    """Returns the time per image, and the ratio to the original's."""
    if seconds is None:
        return ""
    ratio = "" if original in (None, seconds) else f"{original / seconds:.2f} x  "
    return f"{ratio}{seconds / batch:.4f}"


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.2f}"
