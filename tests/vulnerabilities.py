"""Known vulnerabilities of what is installed, by pip-audit: `make lint` runs it.

Exit 1 where one is known. Where the database cannot be reached, or does not know a package, that is
said aloud and nothing fails: not to have looked is not to have found nothing.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def verdict(report: str) -> tuple[int, str]:
    """Exit code and sentence for pip-audit's JSON; "" where it could not write one."""
    if not report:
        return 0, "NOT CHECKED for known vulnerabilities: the database could not be reached"
    packages = json.loads(report)["dependencies"]
    bad = [f"{p['name']} {p['version']}: {v['id']}" for p in packages for v in p.get("vulns", [])]
    skipped = [p["name"] for p in packages if "skip_reason" in p and p["name"] != "ppfer"]
    looked = len(packages) - len(skipped)
    said = f"{looked} packages looked up, {len(bad)} known vulnerabilities"
    if skipped:
        said += f"; NOT CHECKED, the database does not know them: {', '.join(skipped)}"
    return int(bool(bad)), "\n".join([said, *bad])


def main() -> int:
    if not importlib.util.find_spec("pip_audit"):
        print("NOT CHECKED for known vulnerabilities: pip-audit is not installed; make install")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        options = ["--local", "--progress-spinner", "off", "--timeout", "5", "-f", "json"]
        command = [sys.executable, "-m", "pip_audit", *options, "-o", str(out)]
        try:
            subprocess.run(command, capture_output=True, timeout=180)
        except subprocess.TimeoutExpired:
            pass  # said below
        code, said = verdict(out.read_text() if out.exists() else "")
    print(said)
    return code


if __name__ == "__main__":
    sys.exit(main())
