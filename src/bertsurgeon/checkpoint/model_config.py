"""The configuration of a model: read within bounds, and the class that it names."""

import re
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from bertsurgeon.architectures import get_architecture
from bertsurgeon.checkpoint.folder_record import EXPORT_MANIFEST
from bertsurgeon.checkpoint.hf_quantizer import METHOD, SPARSE_METHOD
from bertsurgeon.errors import CheckpointError, ModelError, first_line
from bertsurgeon.files import DamagedFileError, read_json

UNSUPPORTED_HEADS = ("ForMultipleChoice", "ForNextSentencePrediction")
"""Ends of the names of classes whose weights have the names of a classifier's."""

MOST_LABELS = 100_000
"""Most labels that a configuration may have without naming them."""

WEIGHTS = "model.safetensors"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def read_config(name: str | Path) -> PretrainedConfig:
    """Reads a model's configuration.

    Args:
        name: Folder or hub id.

    Raises:
        ModelError: If there is no such folder or hub model, or its architecture is not supported.
        CheckpointError: If ``config.json`` is damaged.
    """
    folder = Path(name)
    if folder.is_dir():
        if (folder / EXPORT_MANIFEST).is_file():
            raise ModelError(f"{folder} is an exported model, without weights to load; name what it was exported from.")
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} holds no model: there is no config.json in it.")
        try:
            content = read_json(folder / "config.json")
        except (OSError, DamagedFileError) as error:
            raise CheckpointError(
                f"{folder / 'config.json'} is damaged ({first_line(error)}); copy it again."
            ) from error
        _check_entries(folder, content)
        get_architecture(content["model_type"])
    elif folder.exists() or not _HUB_ID.fullmatch(str(name)):
        raise ModelError(f"There is no model folder {name}; pass a folder with a config.json, or a hub id.")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # the hub client raises a dozen unrelated types when there is no network
        if folder.is_dir():
            reason = first_line(error).rstrip(":")
            raise CheckpointError(f"{folder / 'config.json'} is damaged ({reason}); copy it again.") from error
        raise ModelError(
            f"{name} is neither a local folder nor a model the hub could deliver ({type(error).__name__})."
        ) from error
    _check_not_quantized(name, config)
    return config


def _check_entries(folder: Path, content: dict[str, Any]) -> None:
    """Checks the entries of a ``config.json`` that select code and files.

    Raises:
        CheckpointError: If one has a wrong value, or names a file of weights outside the folder.
        ModelError: If adapters lie beside the model.
    """
    classes, weights = content.get("architectures"), content.get("transformers_weights")
    wrong = None
    if not isinstance(content.get("model_type"), str):
        wrong = "model_type"
    elif classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        wrong = "architectures"
    elif not isinstance(content.get("num_labels", 0), int) or content.get("num_labels", 0) > MOST_LABELS:
        wrong = "num_labels"  # transformers makes a name for each of them
    elif weights is not None and (not isinstance(weights, str) or weights != WEIGHTS):
        wrong = "transformers_weights"
    if wrong is not None:
        raise CheckpointError(
            f"{folder / 'config.json'} is damaged (its entry {wrong} is missing or has a wrong value); copy it again."
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds adapters that were never merged (adapter_config.json); merge them (merge_and_unload in "
            "peft) and save the model again."
        )


def _check_not_quantized(name: str | Path, config: PretrainedConfig) -> None:
    """Refuses a model that another library has quantized.

    Raises:
        ModelError: If it has.
    """
    entry: Any = getattr(config, "quantization_config", None) or getattr(config, "compression_config", None)
    if entry is None:
        return
    values = entry if isinstance(entry, dict) else vars(entry)
    method = values.get("quant_method") or "another library"
    if method not in (METHOD, SPARSE_METHOD):
        raise ModelError(f"{name} is quantized already (by {method}); start from the dense model that it was made of.")


def head_of(config: PretrainedConfig) -> type[Any]:
    """Returns the Auto class for the head that a configuration names, or that of sequence classifiers."""
    from bertsurgeon.tasks import TaskType, find_head  # the packages that tasks need take long to import

    task_type = find_head(config.architectures or (), config)
    return task_type.auto_class if isinstance(task_type, TaskType) else AutoModelForSequenceClassification


def check_saved_head(name: str | Path, config: PretrainedConfig) -> None:
    """Refuses a model with a head whose weights would be read as another one's.

    Raises:
        ModelError: If it was saved in such a class.
    """
    saved = (config.architectures or [""])[0]
    if saved.endswith(UNSUPPORTED_HEADS):
        raise ModelError(
            f"{name} was saved as a {saved}, whose head is not supported; heads for text and token classification, "
            "regression and question answering are, and sentence embedders."
        )


def saved_class(name: str | Path, config: PretrainedConfig) -> type[Any]:
    """Returns the class a model was saved in.

    Raises:
        CheckpointError: If transformers has no such class of models, or it belongs to another type of models.
    """
    class_name = (config.architectures or ["?"])[0]
    model_class: Any = getattr(transformers, class_name, None)
    is_model = isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)
    if not is_model or getattr(model_class.config_class, "model_type", None) != config.model_type:
        raise CheckpointError(
            f"The config.json of {name} names no model class of transformers for {config.model_type} "
            f"({class_name[:40]!r}); correct its entry 'architectures'."
        )
    return model_class  # type: ignore[no-any-return]
