"""``python -m ppfer``: the command line; also what ``accelerate launch -m ppfer`` starts."""

import signal
import sys

from ppfer.cli import main as command_line


def main() -> int:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal of any encoding: "\xd7" where it lacks "×"
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing half done stays
    return command_line()


if __name__ == "__main__":
    raise SystemExit(main())
