"""Errors that a user meets, and the exit status each one stands for.

Every message has three parts: what was expected, what was found, what to do. The command
line prints it as one line; a traceback always means a bug in mnq.
"""


class MnqError(Exception):
    """Base of all errors that mnq raises on purpose; `exit_status` is the command's status."""

    exit_status = 1


class CheckFailed(MnqError):
    """A check ran and its answer is no (differing integers, a float tensor, ...)."""

    exit_status = 1


class InputError(MnqError):
    """Wrong use or bad input: an option, a file, a map, weights, images."""

    exit_status = 2


class EnvironmentLack(MnqError):
    """The machine lacks something that the command needs (a package, a provider, a network)."""

    exit_status = 3
