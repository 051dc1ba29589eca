"""The one kind of error that a user's data or config can cause.

Everything else is a bug and keeps its traceback; `__main__` makes the difference.
"""


class InputError(Exception):
    """A mistake in what the user gave: shown as one line, exit code 2.

    The message names the file, the row or option, what was found, what is expected and what to do.
    """
