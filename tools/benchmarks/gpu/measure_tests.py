"""A stage of check.py: the project's fast tests, with a list of those that fail."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import kit as kits
import results

_OUT = Path(os.environ.get("JAXDISTILL_GPU_OUT", "build/gpu_check/results"))
_LINE = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
_NODE = re.compile(r"(\S+\.py::.*?)(?: (?:PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b.*)?$")
_SUMMARY = re.compile(r"^=+ .*\b(?:passed|failed|error|no tests ran).* in [\d.]+s")
_TEST_SECONDS = 100


def main() -> None:
    """Runs pytest and records the outcome, also of a run that was stopped."""
    kit, _ = kits.opened()
    report = _OUT / "tests.xml"
    report.unlink(missing_ok=True)
    program = [
        *(
            sys.executable,
            "-m",
            "pytest",
            "--verbose",
            "--override-ini",
            "addopts=--strict-markers",
        ),
        *("-p", "no:cacheprovider", f"--junitxml={report}", *_supported(kit.tests)),
    ]
    if find_spec("pytest_timeout"):
        program.append(f"--timeout={_TEST_SECONDS}")
    process = subprocess.Popen(
        program, cwd=kits.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []
    try:
        lines.extend(_echoed(process))
    except KeyboardInterrupt:  # pytest has got the signal too, and writes its report
        lines.extend(_echoed(process))
    code = process.wait()
    outcomes, failed, complete = parse(lines)
    messages = failures(report) if report.exists() else {}
    for name in failed:
        results.record("failed test", name=name, message=messages.get(name.rpartition("::")[2], ""))
    results.record("tests", exit=code, complete=complete, **outcomes)


def parse(lines: Iterable[str]) -> tuple[dict[str, int], list[str], bool]:
    """Reads pytest's verbose output.

    Args:
      lines: With or without the process of pytest-xdist in front.

    Returns:
      The number of tests by outcome, the failed ones, and whether pytest came to its end.
    """
    outcomes: Counter[str] = Counter()
    failed, complete = [], False
    for line in lines:
        complete |= bool(_SUMMARY.match(line))
        status, node = _LINE.search(line), _NODE.search(line)
        if not status or not node or line.startswith(("FAILED", "ERROR", "SKIPPED")):
            continue  # the last is the summary, which repeats them
        outcomes[status[1].lower()] += 1
        if status[1] in ("FAILED", "ERROR"):
            failed.append(node[1].strip())
    return dict(outcomes), failed, complete


def failures(report: Path) -> dict[str, str]:
    """Returns the first line of the message of each failed test, by its name in the module."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        for kind in ("failure", "error"):
            if (element := case.find(kind)) is not None:
                message = element.get("message", "").strip().partition("\n")[0]
                found[case.get("name", "")] = message[:300]
    return found


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
