"""Expected errors, each with an exit code. The message is one line: what is wrong, where, and what to do.

The command line prints the message and exits with ``exit_code``; ``--debug`` shows the traceback instead.
"""

EXIT_INTERRUPTED = 130
"""Exit code of a command that was stopped by a signal; ``slurm/after_srun.sh`` requeues the job on it."""


class HpcJepaError(Exception):
    """Base class of all expected errors."""

    exit_code = 1


class InputError(HpcJepaError):
    """A command, configuration or combination of settings that cannot work."""

    exit_code = 2


class DataError(HpcJepaError):
    """Missing, damaged or unexpected shards or samples."""

    exit_code = 3


class UndecodableError(DataError):
    """One sample that cannot be decoded; the rest of the data set may be fine."""


class CheckpointError(HpcJepaError):
    """A checkpoint that is damaged or belongs to another run or model."""

    exit_code = 4
