"""``python -m ppfer``: the command line; also what ``accelerate launch -m ppfer`` starts."""

import signal

from ppfer.cli import main as command_line


def main() -> int:
    """Run the command line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing half done stays
    return command_line()


if __name__ == "__main__":
    raise SystemExit(main())
