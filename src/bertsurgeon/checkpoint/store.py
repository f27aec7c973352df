"""Saving and strictly loading models, pruned or dense.

``from_pretrained`` is what users know, and works after ``import bertsurgeon``. This loader is stricter: it checks the
file before it builds anything, accepts no missing, unexpected or misshapen tensor in a pruned model, and answers every
fault with one sentence.
"""

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import GENERATION_CONFIG_NAME

from bertsurgeon import processes
from bertsurgeon.architectures import get_architecture, unfuse_in_place
from bertsurgeon.checkpoint.contents import hook_packed, install_packed, restore_model
from bertsurgeon.checkpoint.files import new_folder
from bertsurgeon.checkpoint.quantization import METHOD, BertSurgeonConfig, attach_plan
from bertsurgeon.checkpoint.sparse import SPARSE_METHOD, SparseConfig, attach_sparse
from bertsurgeon.embedder import (
    COMPANIONS,
    Embedder,
    encoder_folder,
    is_embedder,
    open_sentence_model,
    read_companions,
)
from bertsurgeon.errors import CheckpointError, ModelError, PlanError, first_line
from bertsurgeon.layers import install_plan, reset_indices
from bertsurgeon.tasks import Kind, find_head

WEIGHTS = "model.safetensors"
_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, UnpicklingError)
"""What wrong values in a config.json, and broken pickles of weights, end in deep inside other libraries."""
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def save_model(
    model: PreTrainedModel,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reports: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Saves a model with its tokenizer; the folder is there completely or not at all.

    Of several processes the first one writes; all have to call this.

    Args:
        model: Pruned or dense.
        folder: Where to.
        tokenizer: Saved beside the model.
        reports: Plain data to write as JSON, by file name.
        overwrite: Replace an existing folder.

    Raises:
        CheckpointError: If the folder exists or cannot be written.
    """

    def write() -> None:
        with new_folder(folder, overwrite) as temporary:
            model.save_pretrained(temporary)
            if tokenizer is not None:
                own = tokenizer
                if isinstance(model, Embedder):  # whose own tokenizer may cut texts earlier
                    own = deepcopy(tokenizer)
                    own.model_max_length = model.longest_text
                own.save_pretrained(temporary)
            for name, content in getattr(model, COMPANIONS, {}).items():
                (temporary / name).write_text(content, encoding="utf-8")
            for name, content in (reports or {}).items():
                (temporary / name).write_text(_as_json(content), encoding="utf-8")

    processes.on_main(write)


def write_report(file: Path, content: dict[str, Any]) -> None:
    """Writes plain data as JSON; a file that is there is replaced at once.

    Raises:
        CheckpointError: If it cannot be written.
    """
    new = file.with_name(f".{file.name}.new")
    try:
        new.write_text(_as_json(content), encoding="utf-8")
        new.replace(file)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise CheckpointError(f"{file} cannot be written: {error.strerror}.") from error


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


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
    quantization = _pruned_entry(config)
    companions = read_companions(name) if head is None else {}
    if quantization is not None and not (new_head and isinstance(quantization, SparseConfig)):
        model = _load_pruned(_folder_of(name), config, quantization)
        setattr(model, COMPANIONS, companions)
        return model
    if head is None:
        known = find_head(config.architectures or (), config)
        head = known.auto_class if isinstance(known, Kind) else AutoModelForSequenceClassification
    model, missing, mismatched = _from_pretrained(name, head, **kwargs)
    body = "" if model.base_model is model else f"{model.base_model_prefix}."
    wrong = {**missing, **mismatched}
    _check_fit(
        name, {key: wrong[key] for key in wrong if key.startswith(body) and not key.startswith(f"{body}pooler.")}
    )
    if missing and not new_head:
        raise ModelError(
            f"{name} has no trained task head ({min(missing)} is missing); fine-tune the model first, or name one that "
            "has it."
        )
    if not new_head:
        _check_fit(name, mismatched)
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
    folder = _folder_of(name)
    encoder = _load_as(encoder_folder(folder), AutoModel)
    return Embedder(encoder, open_sentence_model(folder))


def check_masked_lm(model: PreTrainedModel) -> None:
    """Checks that a model guesses hidden tokens.

    Raises:
        ModelError: If its head is another one.
    """
    if model.get_output_embeddings() is None:
        raise ModelError(
            f"A {type(model).__name__} does not guess hidden words; name a model with a masked-language-model head, as "
            "it comes from pre-training."
        )


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer beside a model.

    Raises:
        ModelError: If there is none.
    """
    place = encoder_folder(name) if Path(name).is_dir() else name
    absent = f"There is no tokenizer in {name}; save one beside the model (tokenizer.save_pretrained)."
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
    except Exception as error:  # tokenizers raises nothing more special
        if Path(place, "tokenizer.json").is_file():
            raise CheckpointError(f"The tokenizer in {name} cannot be loaded: {first_line(error)}.") from error
        raise ModelError(absent) from error
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if Path(place).is_dir() and not any(Path(place, file).is_file() for file in files):
        raise ModelError(absent)  # transformers makes an empty one, to which all words are unknown
    return tokenizer


def read_config(name: str | Path) -> PretrainedConfig:
    """Reads a model's configuration.

    Raises:
        ModelError: If there is no such folder or hub model.
        CheckpointError: If ``config.json`` is damaged.
    """
    folder = Path(name)
    if folder.is_dir():
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
            said = first_line(error).rstrip(":")
            raise CheckpointError(f"{folder / 'config.json'} is damaged ({said}); copy it again.") from error
        raise ModelError(
            f"{name} is neither a local folder nor a model the hub could deliver ({type(error).__name__})."
        ) from error
    return config


def check_finite(model: PreTrainedModel) -> None:
    """Checks that no weight is NaN or infinite.

    Raises:
        ModelError: Naming the first tensor that holds one.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(
                f"The weights of {name} are not finite (NaN or infinity); the model is broken, train it anew."
            )


def _holds_embedder(name: str | Path) -> bool:
    if not Path(name).is_dir():
        read_config(name)  # says so if there is no such model
    return is_embedder(name)


def _load_as(name: str | Path, head: type[Any] | None) -> PreTrainedModel:
    """A model of a class, for None of its own; no part of it may be missing. A pruned model knows its own."""
    config = read_config(name)
    get_architecture(config.model_type)
    quantization = _pruned_entry(config)
    if quantization is not None:
        return _load_pruned(_folder_of(name), config, quantization)
    model, missing, mismatched = _from_pretrained(name, head or _own_class(name, config))
    _check_fit(name, {**{key: missing[key] for key in missing if "pooler." not in key}, **mismatched})
    check_finite(model)
    return model


def _install(model: PreTrainedModel, quantization: BertSurgeonConfig | SparseConfig) -> None:
    if isinstance(quantization, BertSurgeonConfig):
        install_plan(model, quantization.plan)
    else:
        unfuse_in_place(model)
    if quantization.packing is not None:
        install_packed(model, quantization.packing)


def _finish(model: PreTrainedModel, quantization: BertSurgeonConfig | SparseConfig) -> None:
    if quantization.packing is not None:
        restore_model(model)
    if isinstance(quantization, SparseConfig):
        attach_sparse(model, quantization.packing.block)
        return
    reset_indices(model)
    attach_plan(model, quantization.plan, quantization.packing)
    if quantization.packing is not None:
        hook_packed(model)


def _load_pruned(
    folder: Path, config: PretrainedConfig, quantization: BertSurgeonConfig | SparseConfig
) -> PreTrainedModel:
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"There is no {WEIGHTS} in {folder}; copy the model again, or download it if it is on the hub."
        )
    _check_header(folder)
    state = load_file(folder / WEIGHTS)
    architecture_class = _own_class(folder, config)
    del config.quantization_config
    with torch.device("meta"):
        skeleton = _make(architecture_class, config, folder)
        tied = set(skeleton.all_tied_weights_keys)  # written once, under the name of what they are tied to
        try:
            _install(skeleton, quantization)
        except PlanError as error:
            raise CheckpointError(f"{folder / 'config.json'} does not fit its model: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items() if name not in tied}
    found = {name: tuple(tensor.shape) for name, tensor in state.items() if name not in tied}
    if expected != found:
        name = next(n for n in sorted({*expected, *found}) if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{folder / WEIGHTS} does not fit its config.json: {name} has shape {found.get(name)}, "
            f"{expected.get(name)} was expected (None: absent)."
        )
    buffers = dict(architecture_class(config).named_buffers())  # of which no file holds all; its weights go at once
    model: PreTrainedModel = skeleton
    model.load_state_dict(state, strict=not tied, assign=True)
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name in buffers:
            owner, _, own_name = name.rpartition(".")
            model.get_submodule(owner).register_buffer(own_name, buffers[name], persistent=False)
    model.tie_weights()
    _finish(model, quantization)
    if (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    check_finite(model)
    model.eval()
    return model


def _pruned_entry(config: PretrainedConfig) -> BertSurgeonConfig | SparseConfig | None:
    """How a model was pruned, as its configuration says; None for models that this library did not prune."""
    entry = getattr(config, "quantization_config", None)
    if not isinstance(entry, dict):
        return None
    if entry.get("quant_method") == METHOD:
        return BertSurgeonConfig(**entry)
    return SparseConfig(**entry) if entry.get("quant_method") == SPARSE_METHOD else None


def _folder_of(name: str | Path) -> Path:
    return Path(name) if Path(name).is_dir() else Path(snapshot_download(str(name)))


def _own_class(name: str | Path, config: PretrainedConfig) -> type[Any]:
    """The class a model was saved as."""
    found = getattr(transformers, (config.architectures or ["?"])[0], None)
    if found is None:
        raise CheckpointError(f"The config.json of {name} names no model class that transformers knows.")
    kind: type[Any] = found
    return kind


def _make(architecture_class: type[Any], config: PretrainedConfig, folder: Path) -> PreTrainedModel:
    try:
        model: PreTrainedModel = architecture_class(config)
    except _FAULTS as error:
        raise _unusable(folder, error) from error
    return model


def _from_pretrained(
    name: str | Path, head: type[Any], **kwargs: Any
) -> tuple[PreTrainedModel, dict[str, str], dict[str, str]]:
    """A model, the tensors that its file lacks, and those it has in another shape, with what is wrong with each."""
    if Path(name).is_dir():
        _check_header(Path(name))
    try:
        loaded: dict[str, Any]
        model: PreTrainedModel
        model, loaded = head.from_pretrained(
            name, **{"output_loading_info": True, "ignore_mismatched_sizes": True, **kwargs}
        )
    except (OSError, SafetensorError, *_FAULTS) as error:
        _check_pickles(Path(name))
        if isinstance(error, _FAULTS):
            raise _unusable(name, error) from error
        raise CheckpointError(f"The weights of {name} cannot be loaded: {first_line(error)}.") from error
    shapes = {key: (tuple(found), tuple(expected)) for key, found, expected in loaded["mismatched_keys"]}
    mismatched = {key: f"has shape {found} instead of {expected}" for key, (found, expected) in shapes.items()}
    return model, dict.fromkeys(loaded["missing_keys"], "is missing"), mismatched


def _check_fit(name: str | Path, wrong: dict[str, str]) -> None:
    """Refuses a model for the first of its wrong tensors, if there are any."""
    if wrong:
        key = min(wrong)
        raise CheckpointError(
            f"The weights of {name} do not fit its config.json ({key} {wrong[key]}); copy the model again."
        )


def _unusable(name: str | Path, error: Exception) -> CheckpointError:
    said = f"{type(error).__name__}: {first_line(error)}"
    return CheckpointError(f"No model can be made of {name} ({said}); check its config.json and its weights.")


def _check_header(folder: Path) -> None:
    """Reads the header of every safetensors file, which fails on truncated files."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or truncated ({first_line(error)}); copy it again.") from error


def _check_pickles(folder: Path) -> None:
    """Reads all weights in PyTorch's own format, if these are what a folder holds."""
    if any(folder.glob("*.safetensors")):
        return
    for path in sorted(folder.glob("pytorch_model*.bin")):
        try:
            is_whole = isinstance(torch.load(path, map_location="meta", weights_only=True), Mapping)
        except (OSError, *_FAULTS):
            is_whole = False
        if not is_whole:
            raise CheckpointError(f"{path} is damaged, or holds more than weights; copy it again.")
