"""From a model, its tokenizer and a corpus to both without the tokens that the corpus never uses."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Encoding, Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.embedder import Embedder
from bertsurgeon.errors import DataError, ModelError
from bertsurgeon.vocabulary.pieces import Json, keep_pieces, needed_pieces, piece_ids, special_ids

Text = str | Sequence[str]
"""A text, or the words of one."""

AT_ONCE = 1000
"""Texts that are tokenized together."""


@dataclass(frozen=True)
class TrimReport:
    """What trimming did.

    Attributes:
        texts: Of the corpus.
        kept: Tokens that are left.
        of: Tokens that the model had embeddings for.
        parameters: Of the model, before and after.
    """

    texts: int
    kept: int
    of: int
    parameters: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def trim_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, TrimReport]:
    """Drops the embeddings of all tokens that a corpus never uses, and gives the others new ids.

    The texts of the corpus fall into the same pieces as before, which is checked for all of them, and a model without a
    vocabulary in its outputs says exactly the same about them. What else is tokenized falls into the pieces that are
    left: shorter ones, or the unknown token. Special and added tokens stay.

    Args:
        model: Dense, pruned or sparse; left as it is.
        tokenizer: Its fast tokenizer, of the kind WordPiece, BPE, Unigram or WordLevel; left as it is.
        texts: The corpus: texts, or lists of words where a task comes in words. Whole texts: truncation cuts later.

    Returns:
        The model, its tokenizer, and what was done.

    Raises:
        ModelError: If the model reads no tokens, or its tokenizer cannot be trimmed.
        DataError: If there are no texts.

    Example:
        >>> from bertsurgeon import trim_vocabulary
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, _ = toy_classifier()
        >>> smaller, its_tokenizer, report = trim_vocabulary(model, tokenizer, ["a warm film", "a dull film"])
        >>> report.kept, report.of
        (9, 25)
        >>> its_tokenizer.tokenize("a warm day")
        ['a', 'warm', '[UNK]']
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelError(
            f"{type(tokenizer).__name__} cannot be trimmed, as it is no fast tokenizer; save the model with a fast one."
        )
    if not texts:
        raise DataError("The corpus is empty; trimming needs the texts that the model is for.")
    rows = _embedding(model).num_embeddings
    data: Json = json.loads(backend.to_str())
    kept = _kept_ids(model, data, _whole_texts(data), texts)
    if kept[-1] >= rows:
        raise ModelError(
            f"The tokenizer knows more tokens than the {rows} of the model; they do not belong together, load its own."
        )
    smaller_data = keep_pieces(data, kept)
    new_ids = {old: new for new, old in enumerate(kept)}
    _check_same(_whole_texts(data), _whole_texts(smaller_data), texts, new_ids)
    smaller = deepcopy(model)
    _cut_rows(smaller, kept)
    _map_config(smaller, new_ids)
    before, after = (sum(p.numel() for p in one.parameters()) for one in (model, smaller))
    rebuilt = _rebuild(tokenizer, smaller_data)
    if isinstance(smaller, Embedder):
        smaller.take_tokenizer(rebuilt)
    return smaller, rebuilt, TrimReport(len(texts), len(kept), rows, (before, after))


def _embedding(model: PreTrainedModel) -> nn.Embedding:
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise ModelError(f"A {type(model).__name__} has no vocabulary that could be trimmed.")
    return embedding


def _whole_texts(data: Json) -> Tokenizer:
    """A tokenizer that neither cuts nor pads."""
    return Tokenizer.from_str(json.dumps({**data, "truncation": None, "padding": None}))


def _encode(tokenizer: Tokenizer, texts: Sequence[Text]) -> Iterator[tuple[Text, Encoding]]:
    for start in range(0, len(texts), AT_ONCE):
        chunk = texts[start : start + AT_ONCE]
        in_words = not isinstance(chunk[0], str)
        inputs: Any = [list(text) for text in chunk] if in_words else list(chunk)
        yield from zip(chunk, tokenizer.encode_batch(inputs, is_pretokenized=in_words), strict=True)


def _kept_ids(model: PreTrainedModel, data: Json, tokenizer: Tokenizer, texts: Sequence[Text]) -> list[int]:
    """Ids of the tokens that stay, ascending."""
    ids = piece_ids(data)
    pieces = {number: piece for piece, number in ids.items()}
    unknown_token = data["model"].get("unk_token")
    used: set[int] = set()
    unknown: set[str] = set()
    for text, encoding in progress.track(_encode(tokenizer, texts), "Reading the corpus", len(texts)):
        used.update(encoding.ids)
        if unknown_token is not None and ids.get(unknown_token) in encoding.ids:
            unknown |= _words(tokenizer, text)
    found = {ids[piece] for piece in needed_pieces(data, {pieces[number] for number in used}, unknown)}
    if unknown_token is not None:
        found.add(ids[unknown_token])
    found |= special_ids(data)
    found |= {number for number in _config_ids(model) if number in pieces}
    # models that count positions from the id of the padding keep what comes before it
    counted = [
        padding
        for module in model.modules()
        if not isinstance(module, nn.Embedding) and isinstance(padding := getattr(module, "padding_idx", None), int)
    ]
    return sorted(found.union(*(range(number + 1) for number in counted)))


def _words(tokenizer: Tokenizer, text: Text) -> set[str]:
    """What a text falls into before pieces are looked for."""
    found: set[str] = set()
    for part in [text] if isinstance(text, str) else text:
        plain = part if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(part)
        if tokenizer.pre_tokenizer is None:
            found.add(plain)
        else:
            found |= {word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(plain)}
    return found


def _check_same(before: Tokenizer, after: Tokenizer, texts: Sequence[Text], new_ids: dict[int, int]) -> None:
    """Checks that all texts fall into the same pieces.

    Raises:
        ModelError: If one does not.
    """
    pairs = zip(_encode(before, texts), _encode(after, texts), strict=True)
    for (text, wanted), (_, found) in progress.track(pairs, "Checking the corpus", len(texts)):
        if [new_ids[number] for number in wanted.ids] != found.ids:
            shown = text if isinstance(text, str) else " ".join(text)
            raise ModelError(
                f"The tokenizer cannot be trimmed: {shown[:60]!r} would fall into other pieces; keep the vocabulary."
            )


def _cut_rows(model: PreTrainedModel, kept: list[int]) -> None:
    """Keeps some rows of the embeddings, and of what else has one for every token: a head, tied or not, and its bias.

    transformers' ``resize_token_embeddings`` cuts at the end only, and leaves biases that a head shares as they are.
    """
    head = model.get_output_embeddings()
    of_head = [getattr(head, name, None) for name in ("weight", "bias")]
    whole = [_embedding(model).weight, *(value for value in of_head if isinstance(value, nn.Parameter))]
    index = torch.tensor(kept, device=model.device)
    cut: dict[int, nn.Parameter] = {}
    for value in whole:
        if id(value) not in cut:
            cut[id(value)] = nn.Parameter(value.detach()[index].clone(), value.requires_grad)
    for module in model.modules():
        own = list(module.named_parameters(recurse=False, remove_duplicate=False))
        for name, value in own:
            if id(value) in cut:
                setattr(module, name, cut[id(value)])
                for size in ("num_embeddings", "out_features"):
                    if name == "weight" and hasattr(module, size):
                        setattr(module, size, len(kept))
    model.config.vocab_size = len(kept)
    if hasattr(model, "vocab_size"):
        setattr(model, "vocab_size", len(kept))  # noqa: B010  # a plain number, where modules hold tensors


def _map_config(model: PreTrainedModel, new_ids: dict[int, int]) -> None:
    """Gives the ids of special tokens in configurations, and of the padding, their new numbers."""

    def change(value: Any) -> Any:
        if isinstance(value, list):
            return [change(entry) for entry in value]
        return new_ids.get(value) if isinstance(value, int) else value

    _for_config_ids(model, lambda config, name, value: setattr(config, name, change(value)))
    embedding = _embedding(model)
    if embedding.padding_idx is not None:
        embedding.padding_idx = new_ids.get(embedding.padding_idx)


def _config_ids(model: PreTrainedModel) -> set[int]:
    found: set[int] = set()

    def keep(config: Any, name: str, value: Any) -> None:
        found.update(entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, int))

    _for_config_ids(model, keep)
    padding = _embedding(model).padding_idx
    return found if padding is None else found | {padding}


def _for_config_ids(model: PreTrainedModel, visit: Callable[[Any, str, Any], None]) -> None:
    """Visits every entry with token ids: configuration, name and value."""
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            for name, value in list(vars(config).items()):
                if name.endswith(("_token_id", "_token_ids")) and value is not None:
                    visit(config, name, value)


def _rebuild(tokenizer: PreTrainedTokenizerBase, data: Json) -> PreTrainedTokenizerBase:
    """The same tokenizer with another JSON."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        rebuilt: PreTrainedTokenizerBase = type(tokenizer).from_pretrained(folder)
    return rebuilt
