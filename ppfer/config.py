"""Configuration of PPFER, and the one exception it raises for the user's mistakes."""


class PpferError(Exception):
    """Something the user can mend: a sentence that says what is wrong, with which file, and what to do."""
