"""Trimming: removes tokens that a corpus never uses from a model and its tokenizer."""

import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from tokenizers import Encoding, Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.embedder import Embedder
from bertsurgeon.errors import DataError, ModelError, OptionError
from bertsurgeon.options import with_article
from bertsurgeon.storage import temporary_folder
from bertsurgeon.vocabulary.pieces import Json, keep_pieces, needed_pieces, piece_ids, special_ids

Text = str | Sequence[str]
"""A text, or the list of its words."""

CHUNK_SIZE = 1000
"""Number of texts that are tokenized together."""


@dataclass(frozen=True)
class TrimReport:
    """Sizes before and after trimming.

    Attributes:
        texts: Number of texts in the corpus.
        kept: Number of tokens that remain.
        total: Number of tokens that the model had embeddings for.
        parameters: Number of the model's parameters, before and after.
    """

    texts: int
    kept: int
    total: int
    parameters: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {"texts": self.texts, "kept": self.kept, "of": self.total, "parameters": self.parameters}


class TrimResult(NamedTuple):
    """Result of :func:`trim_vocabulary`.

    Attributes:
        model: The model with fewer embeddings.
        tokenizer: The tokenizer that belongs to it.
        report: Sizes before and after.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    report: TrimReport


def trim_vocabulary(model: PreTrainedModel, data: Sequence[Text], tokenizer: PreTrainedTokenizerBase) -> TrimResult:
    """Removes the embeddings of all tokens that a corpus never uses, and gives the others new ids.

    The texts of the corpus are split into the same subwords as before, which is checked for all of them, and a model
    whose outputs are not a vocabulary returns exactly the same for them. Other texts are split into subwords that
    remain: shorter ones, or the unknown token. Special and added tokens remain.

    Args:
        model: Dense, pruned or sparse model; it is not modified.
        data: The corpus: texts, or lists of words for tasks whose data is split into words. Texts are used whole, even
            where evaluation would truncate them.
        tokenizer: Its fast tokenizer with a WordPiece, BPE, Unigram or WordLevel model; it is not modified.

    Raises:
        ModelError: If the model has no token embeddings, or its tokenizer cannot be trimmed.
        DataError: If the corpus is empty, or is not a list of texts.
        OptionError: If the tokenizer is passed in place of the corpus.

    Example:
        >>> from bertsurgeon import trim_vocabulary
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, _ = toy_classifier()
        >>> trimmed = trim_vocabulary(model, ["a warm film", "a dull film"], tokenizer)
        >>> trimmed.report.kept, trimmed.report.total
        (9, 25)
        >>> trimmed.tokenizer.tokenize("a warm day")
        ['a', 'warm', '[UNK]']
    """
    if isinstance(data, PreTrainedTokenizerBase):
        raise OptionError(
            "trim_vocabulary takes the model, the texts and the tokenizer, in this order; "
            f"{with_article(type(data).__name__)} is not a list of texts."
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelError(
            f"{type(tokenizer).__name__} cannot be trimmed, as it is no fast tokenizer; save the model with a fast one."
        )
    if isinstance(data, str) or not isinstance(data, Sequence):
        raise DataError(f"The corpus is a {type(data).__name__}; pass a list of texts, or of lists of words.")
    if not data:
        raise DataError("The corpus is empty; trimming needs the texts that the model is for.")
    rows = _embedding(model).num_embeddings
    tokenizer_json: Json = json.loads(backend.to_str())
    kept = _kept_ids(model, tokenizer_json, _without_truncation(tokenizer_json), data)
    if kept[-1] >= rows:
        raise ModelError(
            f"The tokenizer has more tokens than the {rows} of the model; they do not belong together, load its own."
        )
    trimmed_json = keep_pieces(tokenizer_json, kept)
    new_ids = {old: new for new, old in enumerate(kept)}
    _check_same(_without_truncation(tokenizer_json), _without_truncation(trimmed_json), data, new_ids)
    trimmed = deepcopy(model)
    _keep_rows(trimmed, kept)
    _map_config(trimmed, new_ids)
    before, after = (sum(p.numel() for p in one.parameters()) for one in (model, trimmed))
    trimmed_tokenizer = _rebuild(tokenizer, trimmed_json)
    if isinstance(trimmed, Embedder):
        trimmed.set_tokenizer(trimmed_tokenizer)
    return TrimResult(trimmed, trimmed_tokenizer, TrimReport(len(data), len(kept), rows, (before, after)))


def _embedding(model: PreTrainedModel) -> nn.Embedding:
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise ModelError(f"A {type(model).__name__} has no vocabulary that could be trimmed; pass a model of texts.")
    return embedding


def _without_truncation(tokenizer_json: Json) -> Tokenizer:
    """Returns a tokenizer that neither truncates nor pads."""
    return Tokenizer.from_str(json.dumps({**tokenizer_json, "truncation": None, "padding": None}))


def _encode(tokenizer: Tokenizer, texts: Sequence[Text]) -> Iterator[tuple[Text, Encoding]]:
    for start in range(0, len(texts), CHUNK_SIZE):
        chunk = texts[start : start + CHUNK_SIZE]
        in_words = not isinstance(chunk[0], str)
        inputs: Any = [list(text) for text in chunk] if in_words else list(chunk)
        yield from zip(chunk, tokenizer.encode_batch(inputs, is_pretokenized=in_words), strict=True)


def _kept_ids(model: PreTrainedModel, tokenizer_json: Json, tokenizer: Tokenizer, texts: Sequence[Text]) -> list[int]:
    """Returns the ids of the tokens that remain, ascending."""
    ids = piece_ids(tokenizer_json)
    pieces = {number: piece for piece, number in ids.items()}
    unknown_token = tokenizer_json["model"].get("unk_token")
    used: set[int] = set()
    unknown: set[str] = set()
    for text, encoding in progress.track(_encode(tokenizer, texts), "Reading the corpus", len(texts)):
        used.update(encoding.ids)
        if unknown_token is not None and ids.get(unknown_token) in encoding.ids:
            unknown |= _words(tokenizer, text)
    kept = {ids[piece] for piece in needed_pieces(tokenizer_json, {pieces[number] for number in used}, unknown)}
    if unknown_token is not None:
        kept.add(ids[unknown_token])
    kept |= special_ids(tokenizer_json)
    kept |= {number for number in _config_ids(model) if number in pieces}
    # models that count positions from the padding's id need it, and therefore all ids before it, unchanged
    padding_ids = [
        padding
        for module in model.modules()
        if not isinstance(module, nn.Embedding) and isinstance(padding := getattr(module, "padding_idx", None), int)
    ]
    return sorted(kept.union(*(range(number + 1) for number in padding_ids)))


def _words(tokenizer: Tokenizer, text: Text) -> set[str]:
    """Returns the words that a text is split into before each is split into pieces."""
    words: set[str] = set()
    for part in [text] if isinstance(text, str) else text:
        normalized = part if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(part)
        if tokenizer.pre_tokenizer is None:
            words.add(normalized)
        else:
            words |= {word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized)}
    return words


def _check_same(before: Tokenizer, after: Tokenizer, texts: Sequence[Text], new_ids: dict[int, int]) -> None:
    """Checks that all texts are split into the same pieces.

    Raises:
        ModelError: If one is not.
    """
    pairs = zip(_encode(before, texts), _encode(after, texts), strict=True)
    for (text, old), (_, new) in progress.track(pairs, "Checking the corpus", len(texts)):
        if [new_ids[number] for number in old.ids] != new.ids:
            shown = text if isinstance(text, str) else " ".join(text)
            raise ModelError(
                f"The tokenizer cannot be trimmed: {shown[:60]!r} would be split into other subwords; keep the "
                "vocabulary."
            )


def _keep_rows(model: PreTrainedModel, kept: list[int]) -> None:
    """Keeps some rows of all parameters with one row per token: the embeddings, and a head's weight and bias.

    transformers' ``resize_token_embeddings`` removes rows at the end only, and skips biases that a head shares.
    """
    head = model.get_output_embeddings()
    head_values = [getattr(head, name, None) for name in ("weight", "bias")]
    parameters = [_embedding(model).weight, *(value for value in head_values if isinstance(value, nn.Parameter))]
    index = torch.tensor(kept, device=model.device)
    smaller: dict[int, nn.Parameter] = {}
    for value in parameters:
        if id(value) not in smaller:
            smaller[id(value)] = nn.Parameter(value.detach()[index].clone(), value.requires_grad)
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(value) in smaller:
                setattr(module, name, smaller[id(value)])
                for size in ("num_embeddings", "out_features"):
                    if name == "weight" and hasattr(module, size):
                        setattr(module, size, len(kept))
    model.config.vocab_size = len(kept)
    if hasattr(model, "vocab_size"):
        setattr(model, "vocab_size", len(kept))  # noqa: B010  # a plain number, where modules hold tensors


def _map_config(model: PreTrainedModel, new_ids: dict[int, int]) -> None:
    """Replaces the ids of special tokens in configurations, and the padding's in the embedding."""

    def change(value: Any) -> Any:
        if isinstance(value, list):
            return [change(entry) for entry in value]
        return new_ids.get(value) if isinstance(value, int) else value

    _for_config_ids(model, lambda config, name, value: setattr(config, name, change(value)))
    embedding = _embedding(model)
    if embedding.padding_idx is not None:
        embedding.padding_idx = new_ids.get(embedding.padding_idx)


def _config_ids(model: PreTrainedModel) -> set[int]:
    """Returns all token ids in a model's configurations, and the padding's."""
    ids: set[int] = set()

    def collect(config: Any, name: str, value: Any) -> None:
        ids.update(entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, int))

    _for_config_ids(model, collect)
    padding = _embedding(model).padding_idx
    return ids if padding is None else ids | {padding}


def _for_config_ids(model: PreTrainedModel, visit: Callable[[Any, str, Any], None]) -> None:
    """Calls ``visit`` with configuration, name and value of every entry that holds token ids."""
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            for name, value in list(vars(config).items()):
                if name.endswith(("_token_id", "_token_ids")) and value is not None:
                    visit(config, name, value)


def _rebuild(tokenizer: PreTrainedTokenizerBase, tokenizer_json: Json) -> PreTrainedTokenizerBase:
    """Returns a tokenizer of the same class with another JSON."""
    with temporary_folder() as folder:
        tokenizer.save_pretrained(folder)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json, ensure_ascii=False), encoding="utf-8")
        rebuilt: PreTrainedTokenizerBase = type(tokenizer).from_pretrained(folder)
    return rebuilt
