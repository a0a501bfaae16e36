"""A stage of check.py: the project's fast tests; `report_failures` records those that fail."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

import kit as kits
import results

_LINE = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
_NODE = re.compile(r"\S+\.py::")
_SUMMARY = re.compile(r"^=+ .*\b(?:passed|failed|error|no tests ran).* in [\d.]+s")
_TEST_SECONDS = 100


def main() -> None:
    """Runs pytest and records the outcome, also of a run that was stopped."""
    kit, _ = kits.opened()
    program = [
        *(
            sys.executable,
            "-m",
            "pytest",
            "--verbose",
            "--override-ini",
            "addopts=--strict-markers",
        ),
        *("-p", "no:cacheprovider", "-p", "report_failures", *_supported(kit.tests)),
    ]
    if find_spec("pytest_timeout"):
        program.append(f"--timeout={_TEST_SECONDS}")
    process = subprocess.Popen(
        program, cwd=kits.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []
    code: int | str = "limit"
    try:
        lines.extend(_echoed(process))
        code = process.wait()
    except KeyboardInterrupt:  # its workers may take longer to end than there is time
        process.kill()
    outcomes, complete = parse(lines)
    results.record("tests", exit=code, complete=complete, **outcomes)


def parse(lines: Iterable[str]) -> tuple[dict[str, int], bool]:
    """Reads pytest's verbose output.

    Args:
      lines: With or without the process of pytest-xdist in front.

    Returns:
      The number of tests by outcome, and whether pytest came to its end.
    """
    outcomes: Counter[str] = Counter()
    complete = False
    for line in lines:
        complete |= bool(_SUMMARY.match(line))
        status = _LINE.search(line)
        # The summary, which repeats them, begins its lines with the outcome.
        if status and _NODE.search(line) and not line.startswith(("FAILED", "ERROR", "SKIPPED")):
            outcomes[status[1].lower()] += 1
    return dict(outcomes), complete


def _supported(arguments: Sequence[str]) -> list[str]:
    """Returns arguments of pytest without those of pytest-xdist where it is not installed."""
    if find_spec("xdist"):
        return list(arguments)
    kept = list(arguments)
    for option in ("-n", "--dist"):
        if option in kept:
            at = kept.index(option)
            del kept[at : at + 2]
    return kept


def _echoed(process: subprocess.Popen) -> Iterable[str]:
    for line in process.stdout:
        print(line, end="", flush=True)
        yield line


if __name__ == "__main__":
    main()
