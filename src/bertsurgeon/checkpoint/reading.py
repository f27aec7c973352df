"""What lies beside the weights: the configuration and the tokenizer."""

import json
import re
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from bertsurgeon.architectures import get_architecture
from bertsurgeon.checkpoint.hf_quantizer import METHOD, BertSurgeonConfig
from bertsurgeon.checkpoint.sparse import SPARSE_METHOD, SparseConfig
from bertsurgeon.embedder import encoder_folder
from bertsurgeon.errors import CheckpointError, ModelError, first_line

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


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


def pruned_entry(config: PretrainedConfig) -> BertSurgeonConfig | SparseConfig | None:
    """How a model was pruned, as its configuration says; None for models that this library did not prune."""
    entry = getattr(config, "quantization_config", None)
    if not isinstance(entry, dict):
        return None
    if entry.get("quant_method") == METHOD:
        return BertSurgeonConfig(**entry)
    return SparseConfig(**entry) if entry.get("quant_method") == SPARSE_METHOD else None


def own_class(name: str | Path, config: PretrainedConfig) -> type[Any]:
    """The class a model was saved as.

    Raises:
        CheckpointError: If transformers does not know it.
    """
    found = getattr(transformers, (config.architectures or ["?"])[0], None)
    if found is None:
        raise CheckpointError(f"The config.json of {name} names no model class that transformers knows.")
    kind: type[Any] = found
    return kind


def folder_of(name: str | Path) -> Path:
    """The folder of a model, which is fetched first if it is on the hub."""
    return Path(name) if Path(name).is_dir() else Path(snapshot_download(str(name)))


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
