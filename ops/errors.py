"""Errors that a user meets, and the exit status each one stands for.

Every message has three parts: what was expected, what was found, what to do. It is one line of
bounded length, whatever the names in it are; a traceback always means a bug in mnq.
"""

_LONGEST, _END = 800, 250
"""Characters of a message, and how many of these its end keeps: what to do stands there."""


def printable(name: str) -> str:
    r"""`name` on one line: control characters and undecodable bytes become \x.. escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def one_line(text: object) -> str:
    """`text`, printable, with single spaces: what came from a file cannot steer a terminal."""
    return printable(" ".join(str(text).split()))


class MnqError(Exception):
    """Base of all errors that mnq raises on purpose; `exit_status` is the command's status.

    text: the message; its middle is left out where it is too long.
    """

    exit_status = 1

    def __init__(self, text: str) -> None:
        line = one_line(text)
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST - _END - 5]} ... {line[-_END:]}"
        super().__init__(line)


class CheckFailed(MnqError):
    """A check ran and its answer is no (differing integers, a float tensor, ...)."""

    exit_status = 1


class InputError(MnqError):
    """Wrong use or bad input: an option, a file, a map, weights, images."""

    exit_status = 2


class EnvironmentLack(MnqError):
    """The machine lacks something that the command needs (a package, a provider, a network)."""

    exit_status = 3
