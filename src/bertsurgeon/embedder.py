"""Sentence embedders: an encoder with what sentence-transformers puts behind it, as one model of transformers' kind.

The rest of the library sees a model with a head like any other. Files are read and written by sentence-transformers, an
optional package, so that whatever it keeps beside the weights (pooling, prompts, the longest text) comes through.
"""

import json
import os
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.generic import ModelOutput
from transformers.utils.hub import cached_file

from bertsurgeon.errors import CheckpointError, ModelError, first_line

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
TRANSFORMER = "sentence_bert_config.json"

TAIL = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")
"""Modules of sentence-transformers that may follow the encoder."""

COMPANIONS = "sentence_files"
"""Attribute of a cross-encoder with what :func:`read_companions` found."""

_QUANTIZER_ATTRIBUTES = ("hf_quantizer", "is_quantized", "quantization_method", "_weight_conversions")
"""Attributes that ``save_pretrained`` of a pruned encoder needs to write its plan."""


@dataclass
class EmbedderOutput(ModelOutput):
    """What an :class:`Embedder` returns.

    Attributes:
        sentence_embedding: Shape (texts, width).
        hidden_states: If asked for, the encoder's.
    """

    sentence_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class Embedder(PreTrainedModel):
    """An encoder and the modules behind it, as sentence-transformers loaded them.

    What is behind the encoder (pooling, normalization, dense layers) is never pruned and never trained.

    Args:
        encoder: Dense or pruned.
        sentence_model: A ``SentenceTransformer``; its own encoder is replaced by ``encoder``.

    Raises:
        ModelError: If it consists of something else than an encoder, pooling, and what may follow it.
    """

    base_model_prefix = "auto_model"
    main_input_name = "input_ids"
    sentence_model: Any
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, encoder: PreTrainedModel, sentence_model: Any) -> None:
        super().__init__(encoder.config)
        first, *others = sentence_model
        names = [type(module).__name__ for module in others]
        if type(first).__name__ != "Transformer" or "Pooling" not in names or not set(names) <= set(TAIL):
            found = ", ".join([type(first).__name__, *names])
            raise ModelError(
                f"This sentence-transformers model consists of {found}; only a Transformer, Pooling and further "
                f"{', '.join(TAIL[1:])} can be pruned."
            )
        first.model = encoder
        self.auto_model = encoder
        self.tail = nn.ModuleList(others).requires_grad_(False)
        # not among the modules: it holds the same encoder, which shall have one name
        self.__dict__["sentence_model"] = sentence_model
        for name in _QUANTIZER_ATTRIBUTES:
            if name in vars(encoder):
                setattr(self, name, vars(encoder)[name])
        whole: Any = self  # torch and transformers have no types for these
        whole.post_init()
        whole.register_load_state_dict_pre_hook(_take_encoder_file)
        whole.eval()

    def init_weights(self) -> None:
        """Nothing: all parts are there already."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        use_cache: bool | None = None,
    ) -> EmbedderOutput:
        """Embeds padded texts.

        Args:
            input_ids: Shape (texts, tokens).
            attention_mask: Likewise, 1 for real tokens.
            token_type_ids: Where the encoder has token types.
            output_hidden_states: Return these, too.
            return_dict: As other models have it; outputs always have names.
            use_cache: For encoders that once were decoders; None for the others.
        """
        from bertsurgeon.tasks.types.embedding import EMBEDDING  # the packages that tasks need take long to import

        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        if use_cache is not None:
            inputs["use_cache"] = use_cache
        found = self.auto_model(**inputs, output_hidden_states=output_hidden_states, return_dict=True)
        features: dict[str, Tensor] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_embeddings": found.last_hidden_state,
        }
        for module in self.tail:
            features = module(features)
        return EmbedderOutput(features[EMBEDDING], found.hidden_states)

    @property
    def longest_text(self) -> int:
        """Tokens at which ``SentenceTransformer`` cuts a text."""
        return int(self.sentence_model.max_seq_length)

    def take_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Gives the ``SentenceTransformer``, which tokenizes for itself, another tokenizer; it cuts where it did."""
        own = deepcopy(tokenizer)
        own.model_max_length = self.longest_text
        first = self.sentence_model[0]
        setattr(first, "processor" if hasattr(first, "processor") else "tokenizer", own)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Writes a folder that ``SentenceTransformer`` loads (a pruned one after ``import bertsurgeon``).

        Args:
            save_directory: The folder.
            *args: What transformers' models take besides; of no use here.
            **kwargs: Likewise.
        """
        for name in _QUANTIZER_ATTRIBUTES:
            if name in vars(self):
                setattr(self.auto_model, name, vars(self)[name])
            else:
                vars(self.auto_model).pop(name, None)
        self.sentence_model[0].model = self.auto_model
        self.sentence_model.save(str(save_directory), create_model_card=False)

    def stock(self, config: PretrainedConfig) -> "Embedder":
        """An embedder of the same kind around a fresh encoder, untrained."""
        shell = deepcopy(self.sentence_model, {id(self.auto_model): nn.Identity()})  # all but the encoder
        return Embedder(type(self.auto_model)(config), shell)


def make_stock(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """A fresh, untrained model of the same class, for another configuration."""
    fresh: PreTrainedModel = model.stock(config) if isinstance(model, Embedder) else type(model)(config)
    return fresh


def is_embedder(name: str | Path) -> bool:
    """Whether a folder, or a model on the hub, is a sentence embedder of sentence-transformers.

    Raises:
        CheckpointError: If its files are damaged.
    """
    if _find(name, MODULES) is None:
        return False
    settings = _find(name, SETTINGS)
    # cross-encoders and sparse encoders have such folders, too, and are models with heads of their own
    kind = "SentenceTransformer" if settings is None else _read(settings).get("model_type", "SentenceTransformer")
    return bool(kind == "SentenceTransformer")


def encoder_folder(folder: str | Path) -> Path:
    """Where the encoder of a local embedder is: mostly the folder itself.

    Raises:
        CheckpointError: If the list of its modules is damaged.
    """
    file = Path(folder) / MODULES
    if not file.is_file():
        return Path(folder)
    try:
        return Path(folder) / str(_read(file)[0]["path"])
    except (KeyError, IndexError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged: it names no module.") from error


def read_companions(folder: str | Path) -> dict[str, str]:
    """Files that sentence-transformers keeps beside the model of a cross-encoder, by name; a pruned one gets them, too.

    None if there are none, or if there are further modules.

    Raises:
        CheckpointError: If they are damaged.
    """
    modules = Path(folder) / MODULES
    if not modules.is_file() or any(module.get("path") for module in _read(modules)):
        return {}
    files = [Path(folder) / name for name in (MODULES, SETTINGS, TRANSFORMER)]
    return {file.name: file.read_text(encoding="utf-8") for file in files if file.is_file()}


def open_sentence_model(folder: str | Path) -> Any:
    """The ``SentenceTransformer`` of a local folder; a plain encoder gets mean pooling.

    Raises:
        ModelError: If sentence-transformers is not installed.
        CheckpointError: If it cannot load the folder.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ModelError(
            f"{folder} is a sentence embedder, and sentence-transformers is not installed; run: pip install "
            "'bertsurgeon[sentence]'."
        ) from error
    try:
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError) as error:
        raise CheckpointError(f"sentence-transformers cannot load {folder}: {first_line(error)}.") from error


def _take_encoder_file(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Lets ``load_state_dict`` take what :meth:`Embedder.save_pretrained` wrote: the encoder's tensors by its names."""
    own = f"{prefix}{Embedder.base_model_prefix}."
    if any(key.startswith(own) for key in state):
        return
    for key in [key for key in state if key.startswith(prefix)]:
        state[own + key.removeprefix(prefix)] = state.pop(key)


def _find(name: str | Path, file: str) -> Path | None:
    """A file of a local model or, by its id, of one on the hub; None if there is none."""
    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).is_file() else None
    if Path(name).exists():
        return None
    try:
        found = cached_file(str(name), file, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):  # there is no such model, or no way to it: whoever loads it says so
        return None
    return None if found is None else Path(found)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{file} is damaged: {first_line(error)}.") from error
