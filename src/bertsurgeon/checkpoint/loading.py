"""Strictly loading models, pruned or dense, with their configuration and tokenizer.

``from_pretrained`` is what users know, and works after ``import bertsurgeon``. This loader is stricter: it checks the
files before it builds anything, accepts no missing, unexpected or misshapen tensor in a pruned model, and reports every
fault in one sentence.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import GENERATION_CONFIG_NAME

from bertsurgeon.architectures import get_architecture, unfuse_in_place
from bertsurgeon.checkpoint.checks import (
    FAULTS,
    check_finite,
    check_headers,
    check_pickles,
    check_prefix,
    check_tensors,
    check_unused,
    unusable_model,
)
from bertsurgeon.checkpoint.folder_record import EXPORT_MANIFEST
from bertsurgeon.checkpoint.hf_quantizer import (
    METHOD,
    SPARSE_METHOD,
    BertSurgeonConfig,
    SparseConfig,
    attach_plan,
    attach_sparse,
)
from bertsurgeon.checkpoint.packed import hook_packed, install_packed, restore_model
from bertsurgeon.checkpoint.settings import reset_outputs, set_padding
from bertsurgeon.embedder import COMPANIONS, Embedder, encoder_folder, is_embedder, open_sentence_model, read_companions
from bertsurgeon.errors import CheckpointError, ModelError, PlanError, first_line
from bertsurgeon.layers import install_plan, reset_indices

UNSUPPORTED_HEADS = ("ForMultipleChoice", "ForNextSentencePrediction")
"""Ends of the names of classes whose weights have the names of a classifier's."""

WEIGHTS = "model.safetensors"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PrunedConfig = BertSurgeonConfig | SparseConfig


def load_model(
    name: str | Path, head: type[Any] | None = None, new_head: bool = False, **kwargs: Any
) -> PreTrainedModel:
    """Loads a dense or pruned model from a local folder or, by its id, from the hub.

    Args:
        name: Folder or hub id.
        head: The Auto class for a dense model; None for the one that its configuration names, or a sequence
            classifier. A pruned model is loaded in the class that it was saved in. Of a sentence embedder, dense or
            pruned, the encoder alone is loaded if a class is given.
        new_head: Accept a model without a trained head, to be fine-tuned; a sparse one is loaded in the class ``head``.
        **kwargs: For ``from_pretrained`` of a dense model, or for a new head, for instance ``num_labels``.

    Returns:
        The model, in evaluation mode.

    Raises:
        ModelError: If there is no such model, its architecture is not supported, or its weights are not finite.
        CheckpointError: If its files are damaged or of a newer format.
    """
    if head is None and _holds_embedder(name):
        return load_embedder(name)
    config = read_config(name)
    get_architecture(config.model_type)
    entry = _pruned_entry(config)
    if head is None:
        _check_saved_head(name, config)
    companions = read_companions(name) if head is None else {}
    if entry is not None and not (new_head and isinstance(entry, SparseConfig)):
        model = _load_pruned(_local_folder(name), config, entry)
        set_padding(model, name)
        setattr(model, COMPANIONS, companions)
        return model
    model, missing, mismatched = _from_pretrained(name, head or _head_of(config), **kwargs)
    body = "" if model.base_model is model else f"{model.base_model_prefix}."
    faults = {**missing, **mismatched}
    check_tensors(
        name, {key: faults[key] for key in faults if key.startswith(body) and not key.startswith(f"{body}pooler.")}
    )
    if missing and not new_head:
        raise ModelError(
            f"{name} has no trained task head ({min(missing)} is missing); fine-tune the model first, or name one that "
            "has it."
        )
    if not new_head:
        check_tensors(name, mismatched)
    check_finite(model)
    set_padding(model, name)
    setattr(model, COMPANIONS, companions)
    return model


def load_as_saved(name: str | Path) -> PreTrainedModel:
    """Loads a model in the class it was saved in, with any head or none.

    Args:
        name: Folder or hub id.

    Returns:
        The model, in evaluation mode.

    Raises:
        ModelError: If there is no such model, its architecture is not supported, or its weights are not finite.
        CheckpointError: If its files are damaged or of a newer format.
    """
    return load_embedder(name) if _holds_embedder(name) else _load_complete(name, None)


def load_embedder(name: str | Path) -> PreTrainedModel:
    """Loads a sentence embedder, dense or pruned, or makes one of a plain encoder by mean pooling.

    Args:
        name: Folder or hub id, with the ``modules.json`` of sentence-transformers or without.

    Returns:
        The embedder, in evaluation mode.

    Raises:
        ModelError: If there is no such model, its architecture or one of its modules is not supported, its weights are
            not finite, or sentence-transformers is not installed.
        CheckpointError: If its files are damaged or of a newer format.
    """
    if not Path(name).is_dir():
        read_config(name)  # raises if there is no such model
    folder = _local_folder(name)
    encoder = _load_complete(encoder_folder(folder), AutoModel)
    return Embedder(encoder, open_sentence_model(folder))


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
            entry = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            model_type = str(entry["model_type"])
        except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CheckpointError(
                f"{folder / 'config.json'} is damaged ({first_line(error)}); copy it again."
            ) from error
        get_architecture(model_type)
    elif folder.exists() or not _HUB_ID.fullmatch(str(name)):
        raise ModelError(f"There is no model folder {name}; pass a folder with a config.json, or a hub id.")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(name)
    except Exception as error:  # the hub client raises a dozen unrelated types when there is no network
        if folder.is_dir():
            reason = first_line(error).rstrip(":")
            raise CheckpointError(f"{folder / 'config.json'} is damaged ({reason}); copy it again.") from error
        raise ModelError(
            f"{name} is neither a local folder nor a model the hub could deliver ({type(error).__name__})."
        ) from error
    _check_not_quantized(name, config)
    return config


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


def _pruned_entry(config: PretrainedConfig) -> _PrunedConfig | None:
    """Returns the entry about pruning in a configuration; None for models that this library did not prune."""
    entry = getattr(config, "quantization_config", None)
    if not isinstance(entry, dict):
        return None
    if entry.get("quant_method") == METHOD:
        return BertSurgeonConfig(**entry)
    return SparseConfig(**entry) if entry.get("quant_method") == SPARSE_METHOD else None


def _head_of(config: PretrainedConfig) -> type[Any]:
    """Returns the Auto class for the head that a configuration names, or that of sequence classifiers."""
    from bertsurgeon.tasks import TaskType, find_head  # the packages that tasks need take long to import

    task_type = find_head(config.architectures or (), config)
    return task_type.auto_class if isinstance(task_type, TaskType) else AutoModelForSequenceClassification


def _check_saved_head(name: str | Path, config: PretrainedConfig) -> None:
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


def _saved_class(name: str | Path, config: PretrainedConfig) -> type[Any]:
    """Returns the class a model was saved in.

    Raises:
        CheckpointError: If transformers has no such class.
    """
    saved_class: type[Any] | None = getattr(transformers, (config.architectures or ["?"])[0], None)
    if saved_class is None:
        raise CheckpointError(
            f"The config.json of {name} names no model class of transformers; correct its entry 'architectures'."
        )
    return saved_class


def _local_folder(name: str | Path) -> Path:
    """Returns the folder of a model, which is downloaded first if it is on the hub."""
    return Path(name) if Path(name).is_dir() else Path(snapshot_download(str(name)))


def _holds_embedder(name: str | Path) -> bool:
    if not Path(name).is_dir():
        read_config(name)  # raises if there is no such model
    return is_embedder(name)


def _load_complete(name: str | Path, head: type[Any] | None) -> PreTrainedModel:
    """Loads a model of which no part may be missing.

    Args:
        name: Folder or hub id.
        head: The class of a dense model, None for the one it was saved in; pruned models are loaded in that anyway.
    """
    config = read_config(name)
    get_architecture(config.model_type)
    entry = _pruned_entry(config)
    if entry is not None:
        return _load_pruned(_local_folder(name), config, entry)
    model, missing, mismatched = _from_pretrained(name, head or _saved_class(name, config))
    check_tensors(name, {**{key: missing[key] for key in missing if "pooler." not in key}, **mismatched})
    check_finite(model)
    return model


def _from_pretrained(
    name: str | Path, head: type[Any], **kwargs: Any
) -> tuple[PreTrainedModel, dict[str, str], dict[str, str]]:
    """Loads a dense model; returns it with its missing and its misshapen tensors, and what is wrong with each."""
    if Path(name).is_dir():
        check_headers(Path(name))
    try:
        info: dict[str, Any]
        model: PreTrainedModel
        model, info = head.from_pretrained(
            name, **{"output_loading_info": True, "ignore_mismatched_sizes": True, **kwargs}
        )
    except (OSError, SafetensorError, *FAULTS) as error:
        check_pickles(Path(name))
        if isinstance(error, FAULTS):
            raise unusable_model(name, error) from error
        raise CheckpointError(f"The weights of {name} cannot be loaded: {first_line(error)}.") from error
    reset_outputs(model.config, name)
    check_prefix(name, info["missing_keys"], info["unexpected_keys"])
    check_unused(name, model, info["unexpected_keys"])
    shapes = {key: (tuple(stored), tuple(expected)) for key, stored, expected in info["mismatched_keys"]}
    mismatched = {key: f"has shape {stored} instead of {expected}" for key, (stored, expected) in shapes.items()}
    return model, dict.fromkeys(info["missing_keys"], "is missing"), mismatched


def _load_pruned(folder: Path, config: PretrainedConfig, entry: _PrunedConfig) -> PreTrainedModel:
    """Loads a pruned model: builds its class without weights, applies its plan, and demands that every tensor fits.

    Args:
        folder: Folder of its files.
        config: Its configuration, from which the entry about the pruning is removed.
        entry: That entry.

    Raises:
        CheckpointError: If the weights are damaged, or do not fit.
        ModelError: If they are not finite.
    """
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"There is no {WEIGHTS} in {folder}; copy the model again, or download it if it is on the hub."
        )
    check_headers(folder)
    state = load_file(folder / WEIGHTS)
    model_class = _saved_class(folder, config)
    del config.quantization_config
    reset_outputs(config, folder)
    with torch.device("meta"):
        model = _build(model_class, config, folder)
        tied = set(model.all_tied_weights_keys)  # stored once, under the name of what they are tied to
        try:
            _install(model, entry)
        except PlanError as error:
            raise CheckpointError(f"{folder / 'config.json'} does not fit its model: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}
    stored = {name: tuple(tensor.shape) for name, tensor in state.items() if name not in tied}
    if expected != stored:
        check_prefix(folder, expected.keys() - stored.keys(), sorted(stored.keys() - expected.keys()))
        name = next(n for n in sorted({*expected, *stored}) if expected.get(n) != stored.get(n))
        raise CheckpointError(
            f"{folder / WEIGHTS} does not fit its config.json: {name} has shape {stored.get(name)}, "
            f"{expected.get(name)} was expected (None: absent); copy the model again."
        )
    buffers = dict(model_class(config).named_buffers())  # files do not hold all of them; the weights are freed at once
    model.load_state_dict(state, strict=not tied, assign=True)
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name in buffers:
            module_name, _, buffer_name = name.rpartition(".")
            model.get_submodule(module_name).register_buffer(buffer_name, buffers[name], persistent=False)
    model.tie_weights()
    _finish(model, entry)
    if (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    check_finite(model)
    model.eval()
    return model


def _build(model_class: type[Any], config: PretrainedConfig, folder: Path) -> PreTrainedModel:
    try:
        model: PreTrainedModel = model_class(config)
    except FAULTS as error:
        raise unusable_model(folder, error) from error
    return model


def _install(model: PreTrainedModel, entry: _PrunedConfig) -> None:
    if isinstance(entry, BertSurgeonConfig):
        install_plan(model, entry.plan)
    else:
        unfuse_in_place(model)
    if entry.packing is not None:
        install_packed(model, entry.packing)


def _finish(model: PreTrainedModel, entry: _PrunedConfig) -> None:
    if entry.packing is not None:
        restore_model(model)
    if isinstance(entry, SparseConfig):
        attach_sparse(model, entry.packing.block)
        return
    reset_indices(model)
    attach_plan(model, entry.plan, entry.packing)
    if entry.packing is not None:
        hook_packed(model)
