"""Strictly loading models, pruned or dense.

``from_pretrained`` is what users know, and works after ``import bertsurgeon``. This loader is stricter: it checks the
file before it builds anything, accepts no missing, unexpected or misshapen tensor in a pruned model, and answers every
fault with one sentence.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from bertsurgeon.architectures import get_architecture
from bertsurgeon.checkpoint.checks import FAULTS, check_finite, check_fit, check_header, check_pickles, unusable
from bertsurgeon.checkpoint.pruned import load_pruned
from bertsurgeon.checkpoint.reading import folder_of, own_class, pruned_entry, read_config
from bertsurgeon.checkpoint.sparse import SparseConfig
from bertsurgeon.embedder import COMPANIONS, Embedder, encoder_folder, is_embedder, open_sentence_model, read_companions
from bertsurgeon.errors import CheckpointError, ModelError, first_line
from bertsurgeon.tasks import TaskType, find_head


def load_model(
    name: str | Path, head: type[Any] | None = None, new_head: bool = False, **kwargs: Any
) -> PreTrainedModel:
    """Loads a dense or pruned model from a local folder or, by its id, from the hub.

    Args:
        name: Folder or hub id.
        head: The Auto class for a dense model; None for the one that its configuration names, or a sequence
            classifier. A pruned model knows its own class. A sentence embedder, dense or pruned, is loaded as such
            where this is None, and gives its encoder where a class is named.
        new_head: Accept a model without a trained head, to be fine-tuned; a sparse one is given the class ``head``.
        **kwargs: For ``from_pretrained`` of a dense model, or for a new head, for instance ``num_labels``.

    Raises:
        ModelError: If there is no such model, its architecture is not supported, or its weights are not finite.
        CheckpointError: If its files are damaged or of a newer format.
    """
    if head is None and _holds_embedder(name):
        return load_embedder(name)
    config = read_config(name)
    get_architecture(config.model_type)
    quantization = pruned_entry(config)
    companions = read_companions(name) if head is None else {}
    if quantization is not None and not (new_head and isinstance(quantization, SparseConfig)):
        model = load_pruned(folder_of(name), config, quantization)
        setattr(model, COMPANIONS, companions)
        return model
    if head is None:
        known = find_head(config.architectures or (), config)
        head = known.auto_class if isinstance(known, TaskType) else AutoModelForSequenceClassification
    model, missing, mismatched = _from_pretrained(name, head, **kwargs)
    body = "" if model.base_model is model else f"{model.base_model_prefix}."
    wrong = {**missing, **mismatched}
    check_fit(name, {key: wrong[key] for key in wrong if key.startswith(body) and not key.startswith(f"{body}pooler.")})
    if missing and not new_head:
        raise ModelError(
            f"{name} has no trained task head ({min(missing)} is missing); fine-tune the model first, or name one that "
            "has it."
        )
    if not new_head:
        check_fit(name, mismatched)
    check_finite(model)
    setattr(model, COMPANIONS, companions)
    return model


def load_own(name: str | Path) -> PreTrainedModel:
    """Loads a model with the head it was saved with, whatever that is, or none.

    Args:
        name: Folder or hub id.

    Raises:
        ModelError: If there is no such model, its architecture is not supported, or its weights are not finite.
        CheckpointError: If its files are damaged or of a newer format.
    """
    return load_embedder(name) if _holds_embedder(name) else _load_as(name, None)


def load_embedder(name: str | Path) -> PreTrainedModel:
    """Loads a sentence embedder, dense or pruned, or makes one of a plain encoder by mean pooling.

    Args:
        name: Folder or hub id, with the ``modules.json`` of sentence-transformers or without.

    Raises:
        ModelError: If there is no such model, its architecture or one of its modules is not supported, its weights are
            not finite, or sentence-transformers is not installed.
        CheckpointError: If its files are damaged or of a newer format.
    """
    if not Path(name).is_dir():
        read_config(name)  # says so if there is no such model
    folder = folder_of(name)
    encoder = _load_as(encoder_folder(folder), AutoModel)
    return Embedder(encoder, open_sentence_model(folder))


def _holds_embedder(name: str | Path) -> bool:
    if not Path(name).is_dir():
        read_config(name)  # says so if there is no such model
    return is_embedder(name)


def _load_as(name: str | Path, head: type[Any] | None) -> PreTrainedModel:
    """A model of a class, for None of its own; no part of it may be missing. A pruned model knows its own."""
    config = read_config(name)
    get_architecture(config.model_type)
    quantization = pruned_entry(config)
    if quantization is not None:
        return load_pruned(folder_of(name), config, quantization)
    model, missing, mismatched = _from_pretrained(name, head or own_class(name, config))
    check_fit(name, {**{key: missing[key] for key in missing if "pooler." not in key}, **mismatched})
    check_finite(model)
    return model


def _from_pretrained(
    name: str | Path, head: type[Any], **kwargs: Any
) -> tuple[PreTrainedModel, dict[str, str], dict[str, str]]:
    """A model, the tensors that its file lacks, and those it has in another shape, with what is wrong with each."""
    if Path(name).is_dir():
        check_header(Path(name))
    try:
        loaded: dict[str, Any]
        model: PreTrainedModel
        model, loaded = head.from_pretrained(
            name, **{"output_loading_info": True, "ignore_mismatched_sizes": True, **kwargs}
        )
    except (OSError, SafetensorError, *FAULTS) as error:
        check_pickles(Path(name))
        if isinstance(error, FAULTS):
            raise unusable(name, error) from error
        raise CheckpointError(f"The weights of {name} cannot be loaded: {first_line(error)}.") from error
    shapes = {key: (tuple(found), tuple(expected)) for key, found, expected in loaded["mismatched_keys"]}
    mismatched = {key: f"has shape {found} instead of {expected}" for key, (found, expected) in shapes.items()}
    return model, dict.fromkeys(loaded["missing_keys"], "is missing"), mismatched
