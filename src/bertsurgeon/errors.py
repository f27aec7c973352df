"""Errors a user can act on.

Every error raised for bad input derives from :class:`BertSurgeonError` and carries one sentence that names the
cause and the way out. The command line prints that sentence and exits with code 2; anything else is a bug and
keeps its traceback.
"""


class BertSurgeonError(Exception):
    """Base class of everything the library raises on purpose."""


class OptionError(BertSurgeonError):
    """An option or argument is outside its range, or two options contradict each other."""


class DataError(BertSurgeonError):
    """A data file or dataset is missing, empty, or lacks what the task needs."""


class ModelError(BertSurgeonError):
    """A model cannot be found or read, is not supported, does not fit its task, or holds broken weights."""


class PlanError(BertSurgeonError):
    """A plan contradicts itself or the model it is meant for."""


class CheckpointError(BertSurgeonError):
    """A saved model is corrupt, truncated, of a newer format, or cannot be written."""


class ExportError(BertSurgeonError):
    """A model cannot be exported, or what was exported does not say the same."""


def first_line(error: BaseException) -> str:
    """What an error of another library says first, to be quoted in a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
