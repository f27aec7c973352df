"""Errors that a user can act on.

Every error raised for bad input derives from :class:`BertSurgeonError` and carries one sentence that names the
cause and the way out. The command line prints that sentence and exits with code 2; anything else is a bug and
keeps its traceback.
"""

LONGEST_QUOTE = 400
"""Most characters of another library's message that a sentence quotes."""


class BertSurgeonError(Exception):
    """Base class of all errors that the library raises on purpose."""


class OptionError(BertSurgeonError):
    """An option or argument is outside its range, or two options contradict each other."""


class DataError(BertSurgeonError):
    """A data file or dataset is missing, empty, or lacks what the task needs."""


class ModelError(BertSurgeonError):
    """A model cannot be found or read, is not supported, does not fit its task, or holds broken weights."""


class PlanError(BertSurgeonError):
    """A plan contradicts itself, or does not fit its model."""


class CheckpointError(BertSurgeonError):
    """A saved model is corrupt, truncated or of a newer format, or an output folder cannot be written or replaced."""


class ExportError(BertSurgeonError):
    """A model cannot be exported, or the outputs of the exported model differ."""


class HubError(BertSurgeonError):
    """The Hugging Face Hub refuses an upload, or cannot be reached."""


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's error message, without its period, to be quoted in a sentence."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{line[:LONGEST_QUOTE]}…" if len(line) > LONGEST_QUOTE else line.rstrip(".")
