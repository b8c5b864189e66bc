"""``python -m ppfer``: the command line; also what ``accelerate launch -m ppfer`` starts."""


def main() -> int:
    """Run the command line."""
    from ppfer.cli import main as run  # here: child processes import this file, and start quickly

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
