"""What the fault tests counted: said at the end of a run and, with ``--write-counts``, kept in
tests/README.md.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

COUNTS: Counter[str] = Counter()  # "mutations caught" → how many in this run
STARTED = time.time()
PAGE = Path(__file__).parent / "README.md"


def pytest_addoption(parser) -> None:
    keep = "write what the fault tests counted into tests/README.md"
    parser.addoption("--write-counts", action="store_true", help=keep)


def pytest_terminal_summary(terminalreporter, exitstatus, config) -> None:
    if not COUNTS:
        return
    said = ", ".join(f"{what} {count}" for what, count in sorted(COUNTS.items()))
    terminalreporter.write_line(f"counted: {said}")
    if config.getoption("--write-counts") and exitstatus == 0:
        own = of_the_run(terminalreporter.stats, time.time() - STARTED)
        PAGE.write_text(filled(PAGE.read_text(), COUNTS | own))


def of_the_run(stats: dict[str, list], seconds: float) -> dict[str, object]:
    """Which tests the counts are of: how many ran and how long, and why some did not."""
    reasons = Counter(report.longrepr[2] for report in stats.get("skipped", []))
    left = [f"{count}: {why.removeprefix('Skipped: ')}" for why, count in reasons.items()]
    return {
        "day": time.strftime("%Y-%m-%d"),
        "tests": len(stats["passed"]),
        "minutes": round(seconds / 60),
        "left out": "; ".join(left) or "none",
    }


def filled(text: str, counts: dict[str, object]) -> str:
    """The page with every ``<!-- count: what -->N<!-- end -->`` whose `what` was counted."""
    for what, count in counts.items():
        marks = rf"(<!-- count: {re.escape(what)} -->).*?(<!-- end -->)"
        text = re.sub(marks, rf"\g<1>{count}\g<2>", text)
    return text
