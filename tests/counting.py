"""What the fault tests counted: said at the end of a run and, with ``--write-counts``, kept in
tests/README.md.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

COUNTS: Counter[str] = Counter()  # "mutations caught" → how many in this run
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
        PAGE.write_text(filled(PAGE.read_text(), COUNTS))


def filled(text: str, counts: dict[str, int]) -> str:
    """The page with every ``<!-- count: what -->N<!-- end -->`` whose `what` was counted."""
    for what, count in counts.items():
        marks = rf"(<!-- count: {re.escape(what)} -->).*?(<!-- end -->)"
        text = re.sub(marks, rf"\g<1>{count}\g<2>", text)
    return text
