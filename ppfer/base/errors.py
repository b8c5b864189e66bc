"""The one error a user sees, and the words of its sentence."""

import difflib
from collections.abc import Iterable, Sequence


class PpferError(Exception):
    """A sentence for the user: what is wrong, with which file, what to do."""

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: object) -> str:
    """Text that any terminal can print, also where a file's name in it is not UTF-8."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def near(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'seed'?)" where a known name looks like the one given, else ""."""
    found = difflib.get_close_matches(name, known, 1)
    return f" (did you mean '{found[0]}'?)" if found else ""


def some(names: Sequence[str], limit: int) -> str:
    """So many of the names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def check(what: str, value: str, known: Iterable[str]) -> None:
    """Raise `PpferError` if a value is not among those known."""
    if value not in known:
        meant = near(value, known)
        raise PpferError(f"unknown {what} '{value}'{meant}; known: {', '.join(known)}")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, a GPU's or the machine's."""
    words = ("allocate memory", "start new thread", "a primitive", "failed to map segment")
    named = type(error).__name__ == "OutOfMemoryError"  # torch's, which need not be imported
    return isinstance(error, MemoryError) or named or any(word in str(error) for word in words)
