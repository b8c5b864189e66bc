"""``python -m ppfer``: the command line; also what ``accelerate launch -m ppfer`` starts."""

import signal


def main() -> int:
    """Run the command line."""
    from ppfer.cli.commands import (
        main as run,  # here: child processes import this file, and start quickly
    )

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing half done stays
    return run()


if __name__ == "__main__":
    raise SystemExit(main())
