"""How texts are encoded: the prompts before them, the number of tokens at which they are cut, the similarity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.embedder import Embedder
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.prediction import Predictor
from bertsurgeon.retrieval.config import RetrievalConfig
from bertsurgeon.sentence_folders import MODULES, SentenceSettings, read_settings
from bertsurgeon.tasks import Embedding, head_of, max_input_length
from bertsurgeon.tasks.retrieval import (
    SIMILARITIES,
)
from bertsurgeon.tasks.tokenization import accepted_length

QUERY_PROMPTS, DOCUMENT_PROMPTS = ("query",), ("document", "passage", "corpus")
"""Names of prompts in the order in which sentence-transformers looks for them."""

MAX_LENGTH = 100_000
"""Tokens above which a tokenizer's limit is none."""


@dataclass(frozen=True)
class Encoding:
    """How texts are encoded for a search.

    Attributes:
        max_length: Number of tokens at which texts are cut.
        query_prompt: Text before each query.
        document_prompt: Text before each document.
        similarity: Name of the function that compares embeddings.
    """

    max_length: int
    query_prompt: str = ""
    document_prompt: str = ""
    similarity: str = "cosine"


def encoding_of(
    model: Predictor, config: RetrievalConfig, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> Encoding:
    """Returns how a model encodes texts: as sentence-transformers would, unless options say otherwise; notes report it.

    Args:
        model: Embedder or reranker.
        config: Options.
        tokenizer: Tokenizer of the model.
        max_length: Maximum number of tokens; None for the model's own. It is lowered to what the tokenizer and the
            model accept.

    Returns:
        The encoding, with the number of tokens at which texts are cut.

    Raises:
        ModelError: If the model's similarity is unknown, or its pooling ignores prompts.
        OptionError: If there is no such prompt, a reranker gets one, or no maximum length is known.
    """
    accepted = accepted_length(tokenizer)
    if (longest := max_input_length(model.config)) is not None:
        accepted = min(accepted, longest)
    if not isinstance(head_of(model), Embedding):
        if config.query_prompt is not None or config.document_prompt is not None:
            raise OptionError("Prompts are for embedders; a reranker reads both texts at once. Leave the prompts out.")
        return Encoding(_limit(max_length, accepted))
    settings = settings_of(model)
    if settings.similarity not in SIMILARITIES:
        raise ModelError(
            f"The model compares embeddings by {settings.similarity!r}; only {', '.join(SIMILARITIES)} are supported."
        )
    query_prompt = choose_prompt(settings, config.query_prompt, QUERY_PROMPTS)
    document_prompt = choose_prompt(settings, config.document_prompt, DOCUMENT_PROMPTS)
    if (query_prompt or document_prompt) and not settings.pools_prompt:
        raise ModelError(
            "The model's pooling leaves the tokens of prompts out (include_prompt), which is not supported; evaluate "
            "it without prompts (--query-prompt '' --document-prompt '')."
        )
    limit = _limit(settings.max_length if max_length is None else max_length, accepted)
    for texts, prompt in (("Queries", query_prompt), ("Documents", document_prompt)):
        if prompt:
            progress.note_once(f"{texts} begin with {prompt!r}.")
    return Encoding(limit, query_prompt, document_prompt, settings.similarity)


def settings_of(model: Predictor) -> SentenceSettings:
    """Returns how sentence-transformers embeds texts with an embedder.

    Args:
        model: Embedder in PyTorch, or exported.

    Returns:
        Its settings; the defaults for an export without those of sentence-transformers, which a note reports.

    Raises:
        CheckpointError: If the settings of an export are damaged.
    """
    if isinstance(model, Embedder):
        return model.settings
    folder: Path | None = getattr(model, "folder", None)
    if folder is None or not (folder / MODULES).is_file():
        progress.note_once(
            "The exported embedder has no settings of sentence-transformers: no prompts, cosine, and texts are cut "
            "where its tokenizer cuts them; export it again to have those of its model."
        )
        return SentenceSettings()
    return read_settings(folder)


def choose_prompt(settings: SentenceSettings, given: str | None, names: tuple[str, ...]) -> str:
    """Returns the prompt of queries, or of documents.

    Args:
        settings: Settings of the model.
        given: The option: a name, a text with a space or colon, "" for none, or None for the default.
        names: Names of the default prompts.

    Raises:
        OptionError: If it is a single word, and no prompt of the model.
    """
    if given is None:
        return next((settings.prompts[name] for name in names if name in settings.prompts), "")
    if given in settings.prompts:
        return settings.prompts[given]
    if given and not any(mark in given for mark in " :"):
        existing = ", ".join(settings.prompts) or "none"
        raise OptionError(
            f"The model has no prompt {given!r} (it has: {existing}); name one of these, or give a text with a "
            "space or colon."
        )
    return given


def _limit(max_length: int | None, accepted: int) -> int:
    """Returns the number of tokens at which texts are cut; a note reports one that is lowered."""
    if max_length is None and accepted > MAX_LENGTH:
        raise OptionError("Neither the model nor its tokenizer names a maximum length; name one with --max-length.")
    if max_length is not None and max_length > accepted:
        progress.note_once(
            f"The maximum length of {max_length:,} tokens is lowered to {accepted:,}, the most that the model and its "
            "tokenizer accept."
        )
    return accepted if max_length is None else min(max_length, accepted)
