"""Sentence embedders: an encoder and the modules that sentence-transformers puts after it, as one transformers model.

To the rest of the library it is a model with a head like any other. sentence-transformers, an optional package, reads
and writes the files (:mod:`bertsurgeon.sentence_folders`), so that its settings (pooling, prompts, maximum length) are
preserved.
"""

import json
import os
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.generic import ModelOutput

from bertsurgeon.errors import ModelError
from bertsurgeon.sentence_folders import MODULES, SETTINGS, TRANSFORMER, SentenceSettings

TAIL = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")
"""Classes of sentence-transformers' modules that may follow the encoder."""

_CHECKPOINT_ATTRIBUTES = ("hf_quantizer", "is_quantized", "quantization_method", "_weight_conversions")
"""Attributes of a pruned model that ``save_pretrained`` reads its plan from."""


_POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Entries of a pooling configuration by mode, as all versions of sentence-transformers and other servers read them."""


@dataclass
class EmbedderOutput(ModelOutput):
    """Outputs of an :class:`Embedder`.

    Attributes:
        last_hidden_state: Embeddings of the tokens before pooling, shape (texts, tokens, width).
        sentence_embedding: One vector per text, shape (texts, width).
        hidden_states: Hidden states of the encoder, each of shape (texts, tokens, width), if requested.
    """

    last_hidden_state: Tensor | None = None
    sentence_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class Embedder(PreTrainedModel):
    """An encoder and the modules after it, as loaded by sentence-transformers.

    The modules after the encoder (pooling, normalization, dense layers) are never pruned or trained; a refit adds a
    matrix (:meth:`transform_embeddings`).

    Args:
        encoder: Dense or pruned encoder.
        sentence_model: A ``SentenceTransformer``; ``encoder`` replaces its encoder.

    Raises:
        ModelError: If it has modules other than an encoder, pooling, and those listed in ``TAIL``.
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
            modules = ", ".join([type(first).__name__, *names])
            raise ModelError(
                f"This sentence-transformers model consists of {modules}; only a Transformer, Pooling and further "
                f"{', '.join(TAIL[1:])} can be pruned."
            )
        first.model = encoder
        self.auto_model = encoder
        self.tail = nn.ModuleList(others).requires_grad_(False)
        # not a submodule: it holds the same encoder, whose parameters would get a second name
        self.__dict__["sentence_model"] = sentence_model
        for name in _CHECKPOINT_ATTRIBUTES:
            if name in vars(encoder):
                setattr(self, name, vars(encoder)[name])
        untyped: Any = self  # torch and transformers have no types for these methods
        untyped.post_init()
        untyped.register_load_state_dict_pre_hook(_add_encoder_prefix)
        untyped.eval()

    def init_weights(self) -> None:
        """Does nothing, as all weights are loaded already."""

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
            input_ids: Token ids, shape (texts, tokens).
            attention_mask: 1 for real tokens, 0 for padding, shape (texts, tokens).
            token_type_ids: Token types, shape (texts, tokens), for encoders that have them.
            output_hidden_states: Whether to return the encoder's hidden states.
            return_dict: Accepted for compatibility; outputs always have names.
            use_cache: For encoders that are decoders by origin; None for all others.
        """
        from bertsurgeon.tasks.types.embedding import EMBEDDING  # the packages that tasks need take long to import

        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        if use_cache is not None:
            inputs["use_cache"] = use_cache
        outputs = self.auto_model(**inputs, output_hidden_states=output_hidden_states, return_dict=True)
        features: dict[str, Tensor] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_embeddings": outputs.last_hidden_state,
        }
        for module in self.tail:
            features = module(features)
        return EmbedderOutput(outputs.last_hidden_state, features[EMBEDDING], outputs.hidden_states)

    @property
    def max_seq_length(self) -> int:
        """Number of tokens at which ``SentenceTransformer`` truncates a text."""
        return int(self.sentence_model.max_seq_length)

    @property
    def normalizes(self) -> bool:
        """Whether embeddings have unit length."""
        return any(type(module).__name__ == "Normalize" for module in self.tail[_end(self.tail) :])

    @property
    def settings(self) -> SentenceSettings:
        """How ``SentenceTransformer`` embeds texts with the model."""
        model = self.sentence_model
        prompts = {name: text for name, text in dict(model.prompts).items() if text}
        pools_prompt = all(getattr(module, "include_prompt", True) for module in self.tail)
        return SentenceSettings(self.max_seq_length, prompts, str(model.similarity_fn_name), pools_prompt)

    @torch.no_grad()
    def transform_embeddings(self, matrix: Tensor) -> None:
        """Multiplies embeddings by a matrix before their normalization, if they are normalized.

        A linear module there is multiplied by it; otherwise it becomes one, without a bias.

        Args:
            matrix: Shape (width, width): an embedding z becomes z @ matrix.
        """
        end = _end(self.tail)
        linear = _linear_part(self.tail[end - 1])
        if linear is None:
            from sentence_transformers.sentence_transformer.modules import Dense

            width = len(matrix)
            dense = Dense(width, width, bias=False, activation_function=nn.Identity()).requires_grad_(False)
            dense.linear.weight.copy_(torch.eye(width))
            dense.to(self.device, self.dtype).train(self.training)
            linear = dense.linear
            self._insert(end, dense)
        matrix = matrix.double().cpu()
        linear.weight.copy_(matrix.T @ linear.weight.double().cpu())
        if linear.bias is not None:
            linear.bias.copy_(linear.bias.double().cpu() @ matrix)

    def _insert(self, position: int, module: nn.Module) -> None:
        """Inserts a module after the encoder; the others keep their names where they have some that are no numbers."""
        modules: dict[str, nn.Module] = dict(self.sentence_model._modules)
        names, numbered = list(modules), all(name.isdigit() for name in modules)
        parts = [*modules.values()]
        parts.insert(position + 1, module)
        names.insert(position + 1, "refit" if "refit" not in names else f"refit_{len(names)}")
        # torch's own insert requires names that are numbers
        self.sentence_model._modules.clear()
        for number, (name, part) in enumerate(zip(names, parts, strict=True)):
            self.sentence_model.add_module(str(number) if numbered else name, part)
        self.tail.insert(position, module)

    def save_settings(self, folder: Path) -> None:
        """Writes the files by which any version of ``SentenceTransformer`` reads a folder with an exported encoder.

        Args:
            folder: Folder with the encoder's configuration and tokenizer.
        """
        modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
        for index, module in enumerate(self.tail, 1):
            name = type(module).__name__
            path = folder / f"{index}_{name}"
            path.mkdir()
            if name == "Pooling":
                _write(path / "config.json", _pooling_config(module))
            else:
                untyped: Any = module
                untyped.save(str(path))
            modules.append(
                {"idx": index, "name": str(index), "path": path.name, "type": f"sentence_transformers.models.{name}"}
            )
        settings = self.settings
        _write(folder / MODULES, modules)
        _write(folder / TRANSFORMER, {"max_seq_length": settings.max_length, "do_lower_case": False})
        _write(
            folder / SETTINGS,
            {
                "model_type": "SentenceTransformer",
                "prompts": dict(self.sentence_model.prompts),
                "default_prompt_name": self.sentence_model.default_prompt_name,
                "similarity_fn_name": settings.similarity,
            },
        )

    def set_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Replaces the tokenizer inside the ``SentenceTransformer``; its maximum length remains.

        Args:
            tokenizer: The new tokenizer, which is copied.
        """
        copy = deepcopy(tokenizer)
        copy.model_max_length = self.max_seq_length
        first = self.sentence_model[0]
        setattr(first, "processor" if hasattr(first, "processor") else "tokenizer", copy)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Writes a folder that ``SentenceTransformer`` loads (of a pruned model: after ``import bertsurgeon``).

        Args:
            save_directory: The folder.
            *args: Accepted for compatibility with transformers, and ignored.
            **kwargs: Accepted for compatibility with transformers, and ignored.
        """
        for name in _CHECKPOINT_ATTRIBUTES:
            if name in vars(self):
                setattr(self.auto_model, name, vars(self)[name])
            else:
                vars(self.auto_model).pop(name, None)
        self.sentence_model[0].model = self.auto_model
        self.sentence_model.save(str(save_directory), create_model_card=False)

    def with_new_encoder(self, config: PretrainedConfig) -> "Embedder":
        """Returns an embedder with an untrained encoder and a copy of the modules after it.

        Args:
            config: Configuration of the encoder.
        """
        others = deepcopy(self.sentence_model, {id(self.auto_model): nn.Identity()})  # copies all but the encoder
        return Embedder(type(self.auto_model)(config), others)


def _end(tail: nn.ModuleList) -> int:
    """Returns the number of modules before the final normalization, if there is one."""
    end = len(tail)
    while type(tail[end - 1]).__name__ in ("Normalize", "Dropout"):
        end -= 1
    return end


def _linear_part(module: nn.Module) -> nn.Linear | None:
    """Returns the matrix of a module that is nothing but one, from embedding to embedding; None for any other."""
    untyped: Any = module
    if type(module).__name__ != "Dense" or not isinstance(untyped.activation_function, nn.Identity):
        return None
    names = {untyped.module_input_name, untyped.module_output_name}
    is_plain = names == {"sentence_embedding"} and not getattr(untyped, "use_residual", False)
    return untyped.linear if is_plain else None


def new_model_like(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """Returns an untrained model of the same class.

    Args:
        model: Model whose class is used.
        config: Configuration of the new model.
    """
    new: PreTrainedModel = model.with_new_encoder(config) if isinstance(model, Embedder) else type(model)(config)
    return new


def _add_encoder_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Adds the encoder's prefix to the names in ``state``, as :meth:`Embedder.save_pretrained` saves without it."""
    encoder_prefix = f"{prefix}{Embedder.base_model_prefix}."
    if any(key.startswith(encoder_prefix) for key in state):
        return
    for key in [key for key in state if key.startswith(prefix)]:
        state[encoder_prefix + key.removeprefix(prefix)] = state.pop(key)


def _pooling_config(pooling: Any) -> dict[str, Any]:
    modes = (pooling.pooling_mode,) if isinstance(pooling.pooling_mode, str) else pooling.pooling_mode
    flags = {entry: mode in modes for mode, entry in _POOLING_FLAGS.items()}
    return {
        "word_embedding_dimension": int(pooling.embedding_dimension),
        **flags,
        "include_prompt": bool(pooling.include_prompt),
    }


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
