"""Strictly loading models, pruned or dense, with their configuration and tokenizer.

``from_pretrained`` is what users know, and works after ``import bertsurgeon``. This loader is stricter: it checks the
files before it builds anything, accepts no missing, unexpected or misshapen tensor in a pruned model, and reports every
fault in one sentence.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.architectures import get_architecture
from bertsurgeon.checkpoint.bounds import check_archives, check_dense_size, check_shards
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
from bertsurgeon.checkpoint.hf_quantizer import SparseConfig
from bertsurgeon.checkpoint.integrity import check_sealed
from bertsurgeon.checkpoint.model_config import check_saved_head, head_of, read_config, saved_class
from bertsurgeon.checkpoint.pruned_loading import build_pruned, load_pruned, pruned_entry
from bertsurgeon.checkpoint.settings import reset_outputs, set_padding
from bertsurgeon.embedder import Embedder
from bertsurgeon.errors import CheckpointError, ModelError, first_line
from bertsurgeon.sentence_folders import (
    COMPANIONS,
    encoder_folder,
    is_embedder,
    module_folders,
    open_sentence_model,
    read_companions,
)


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
    entry = pruned_entry(name, config)
    if head is None:
        check_saved_head(name, config)
    companions = read_companions(name) if head is None else {}
    if entry is not None and not (new_head and isinstance(entry, SparseConfig)):
        model = load_pruned(_local_folder(name), config, entry)
        set_padding(model, name)
        setattr(model, COMPANIONS, companions)
        return model
    model, missing, mismatched = _from_pretrained(name, head or head_of(config), config, new_head, **kwargs)
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
    heads = sorted(path.name for path in folder.glob("model_head.*"))
    if heads or (folder / "config_setfit.json").is_file():
        progress.note_once(
            f"{name} has a classification head of SetFit ({', '.join(heads) or 'config_setfit.json'}), which is left "
            "out: only the embedder is read, so train the head again on its embeddings."
        )
    encoder = _load_complete(encoder_folder(folder), AutoModel)
    for module in module_folders(folder):
        check_sealed(module)
    return Embedder(encoder, open_sentence_model(folder))


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
    entry = pruned_entry(name, config)
    if entry is not None:
        return load_pruned(_local_folder(name), config, entry)
    model, missing, mismatched = _from_pretrained(name, head or saved_class(name, config), config)
    check_tensors(name, {**{key: missing[key] for key in missing if "pooler." not in key}, **mismatched})
    check_finite(model)
    return model


def _from_pretrained(
    name: str | Path, head: type[Any], config: PretrainedConfig, new_head: bool = False, **kwargs: Any
) -> tuple[PreTrainedModel, dict[str, str], dict[str, str]]:
    """Loads a dense model; returns it with its missing and its misshapen tensors, and what is wrong with each."""
    if Path(name).is_dir():
        check_shards(Path(name))
        check_headers(Path(name))
        check_archives(Path(name))
        check_dense_size(Path(name), head, config)
        check_sealed(Path(name))
    try:
        info: dict[str, Any]
        model: PreTrainedModel
        model, info = head.from_pretrained(
            name, **{"output_loading_info": True, "ignore_mismatched_sizes": True, "trust_remote_code": False, **kwargs}
        )
    except (OSError, SafetensorError, *FAULTS) as error:
        check_pickles(Path(name))
        if isinstance(error, FAULTS):
            raise unusable_model(name, error) from error
        raise CheckpointError(f"The weights of {name} cannot be loaded: {first_line(error)}.") from error
    reset_outputs(model.config, name)
    check_prefix(name, info["missing_keys"], info["unexpected_keys"])
    check_unused(name, model, info["unexpected_keys"], new_head)
    shapes = {key: (tuple(stored), tuple(expected)) for key, stored, expected in info["mismatched_keys"]}
    mismatched = {key: f"has shape {stored} instead of {expected}" for key, (stored, expected) in shapes.items()}
    return model, dict.fromkeys(info["missing_keys"], "is missing"), mismatched


def check_loadable(name: str | Path) -> None:
    """Checks that the headers of a local model's weights fit its configuration; loads no weights.

    Raises:
        ModelError: If its architecture is not supported.
        CheckpointError: Naming what does not fit.
    """
    config, folder = read_config(name), Path(name)
    entry = pruned_entry(folder, config)
    model_class = saved_class(folder, config)
    if entry is not None:
        build_pruned(model_class, folder, config, entry)
        return
    check_shards(folder)
    check_headers(folder)
    check_dense_size(folder, model_class, config)
