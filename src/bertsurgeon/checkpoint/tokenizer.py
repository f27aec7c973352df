"""Loading the tokenizer beside a model, with settings that fit the model."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.errors import BertSurgeonError, CheckpointError, ModelError, first_line
from bertsurgeon.files import DamagedFileError, read_json, special_file
from bertsurgeon.sentence_folders import encoder_folder

VOCABULARY_FILES = ("vocab.*", "*.model", "merges.txt", "bpe.codes", "*.tiktoken", "sentencepiece.*")
"""Name patterns of the files that tokenizers read their vocabulary from, beside ``tokenizer.json``."""

SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "config.json")
"""Files with the settings of a tokenizer, and of the model beside it."""

TOKEN_TYPES = "token_type_ids"


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer that was saved with a model.

    One without a padding token gets the token that the model's configuration names, or the one that ends texts. One
    that returns token types for a model with a single type no longer returns them. A note reports both.

    Args:
        name: Folder or hub id of the model.

    Raises:
        ModelError: If there is none, it needs a package that is not installed, or it has no token to pad with.
        CheckpointError: If its file is damaged.
    """
    source = encoder_folder(name) if Path(name).is_dir() else name
    _check_files(Path(source))
    absent = f"There is no tokenizer in {name}; save one beside the model (tokenizer.save_pretrained)."
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # tokenizers raises nothing more special
        raise _load_error(name, Path(source), error) or ModelError(absent) from error
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if Path(source).is_dir() and not any(Path(source, file).is_file() for file in files):
        raise ModelError(absent)  # transformers makes an empty one, which maps all words to the unknown token
    try:
        config: PretrainedConfig | None = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception:  # there is no model beside it, or one whose loading reports the error
        config = None
    _drop_token_types(tokenizer, config, name)
    _choose_padding(tokenizer, config, name)
    return tokenizer


def _check_files(folder: Path) -> None:
    """Checks the settings of a local tokenizer, which are read without bounds otherwise.

    Raises:
        CheckpointError: If one of its files is damaged.
    """
    names = (*SETTINGS_FILES, "tokenizer.json", *VOCABULARY_FILES)
    special = special_file(path for name in names for path in sorted(folder.glob(name)))
    if special is not None:
        raise CheckpointError(f"{special} is no regular file; copy the tokenizer again.")
    for file in SETTINGS_FILES:
        try:
            if (folder / file).is_file():
                read_json(folder / file)
        except (OSError, DamagedFileError) as error:
            raise CheckpointError(f"{folder / file} is damaged ({error}); copy the tokenizer again.") from error


def _load_error(name: str | Path, folder: Path, error: Exception) -> BertSurgeonError | None:
    """Returns the error for a tokenizer that is there but cannot be loaded; None if there is none."""
    if (folder / "tokenizer.json").is_file():
        return CheckpointError(f"The tokenizer in {name} cannot be loaded: {first_line(error)}.")
    pieces = next(iter(sorted(folder.glob("*.model"))), None) if folder.is_dir() else None
    if pieces is not None and find_spec("sentencepiece") is None:
        return ModelError(
            f"The tokenizer in {name} cannot be loaded, as its file {pieces.name} needs a package that is not "
            "installed; run: pip install sentencepiece protobuf."
        )
    text = str(error)
    if isinstance(error, ImportError) or "pip install" in text:
        return ModelError(f"The tokenizer in {name} needs a package that is not installed ({first_line(error)}).")
    if "custom code" in text or (folder.is_dir() and any(any(folder.glob(file)) for file in VOCABULARY_FILES)):
        return ModelError(
            f"The tokenizer in {name} cannot be loaded ({first_line(error)}); save one beside the model that "
            "AutoTokenizer.from_pretrained loads."
        )
    return None


def _drop_token_types(tokenizer: PreTrainedTokenizerBase, config: Any, name: str | Path) -> None:
    """Makes a tokenizer return no token types if a model has a single embedding for all of them."""
    if getattr(config, "type_vocab_size", None) == 1 and TOKEN_TYPES in tokenizer.model_input_names:
        tokenizer.model_input_names = [entry for entry in tokenizer.model_input_names if entry != TOKEN_TYPES]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # what save_pretrained writes
        progress.note_once(
            f"{name} has one token type (type_vocab_size 1) and its tokenizer more: both texts of a pair get the same."
        )


def _choose_padding(tokenizer: PreTrainedTokenizerBase, config: Any, name: str | Path) -> None:
    """Gives a tokenizer without a padding token one.

    Raises:
        ModelError: If neither the configuration nor the tokenizer names a token to pad with.
    """
    if tokenizer.pad_token is not None:
        return
    number = getattr(config, "pad_token_id", None)
    if isinstance(number, int) and 0 <= number < len(tokenizer):
        token = tokenizer.convert_ids_to_tokens(number)
    else:
        token = tokenizer.eos_token or tokenizer.sep_token
    if not isinstance(token, str):
        raise ModelError(
            f"The tokenizer in {name} has no padding token; set it (tokenizer.pad_token = …) and save it again."
        )
    tokenizer.pad_token = token
    progress.note_once(f"The tokenizer in {name} has no padding token; texts are padded with {token!r}.")
