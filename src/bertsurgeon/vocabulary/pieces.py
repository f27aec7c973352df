"""Subwords ("pieces") that a corpus needs, and tokenizers reduced to them.

All functions work on the JSON of the ``tokenizers`` library, the format of every fast tokenizer. Which pieces must
remain, for the corpus to be split as before, depends on the algorithm of the tokenizer.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from bertsurgeon.errors import ModelError

Json = dict[str, Any]

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def needed_pieces(tokenizer: Json, used: set[str], unknown: Iterable[str]) -> set[str]:
    """Returns all pieces that tokenizing some texts depends on.

    Args:
        tokenizer: JSON of a tokenizer.
        used: Pieces that the texts consist of.
        unknown: Words of the texts that may have no pieces.

    Raises:
        ModelError: If the tokenizer's algorithm is not supported.
    """
    model = tokenizer["model"]
    algorithm = model.get("type") or _infer_algorithm(model)
    try:
        finder = _FINDERS[algorithm]
    except KeyError:
        raise ModelError(
            f"A {algorithm} tokenizer cannot be trimmed; those that can are {', '.join(_FINDERS)}."
        ) from None
    return used | finder(tokenizer, used, unknown) | {token["content"] for token in tokenizer.get("added_tokens", [])}


def piece_ids(tokenizer: Json) -> dict[str, int]:
    """Returns the id of every piece, including added tokens.

    Args:
        tokenizer: JSON of a tokenizer.
    """
    vocabulary = tokenizer["model"]["vocab"]
    ids = (
        dict(vocabulary)
        if isinstance(vocabulary, Mapping)
        else {piece: number for number, (piece, _) in enumerate(vocabulary)}
    )
    return ids | {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}


def special_ids(tokenizer: Json) -> set[int]:
    """Returns the ids that a tokenizer adds to texts: special tokens and padding.

    Args:
        tokenizer: JSON of a tokenizer.
    """
    ids: set[int] = set()

    def collect(token: int) -> int:
        ids.add(token)
        return token

    _map_special_ids(deepcopy(tokenizer), collect)
    return ids


def keep_pieces(tokenizer: Json, kept: list[int]) -> Json:
    """Returns a tokenizer with some of its pieces; their new ids are their positions in ``kept``.

    Args:
        tokenizer: JSON of a tokenizer.
        kept: Ids of the pieces that remain, ascending.
    """
    new = {old: position for position, old in enumerate(kept)}
    smaller = deepcopy(tokenizer)
    model = smaller["model"]
    if isinstance(model["vocab"], Mapping):
        model["vocab"] = {piece: new[number] for piece, number in model["vocab"].items() if number in new}
        pieces = set(model["vocab"])
        if "merges" in model:
            merges = [(merge, _parts(merge)) for merge in model["merges"]]
            model["merges"] = [
                merge
                for merge, (first, second) in merges
                if first in pieces and second in pieces and _joined(model, first, second) in pieces
            ]
    else:
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    for token in smaller.get("added_tokens", []):
        token["id"] = new[token["id"]]
    _map_special_ids(smaller, new.__getitem__)
    return smaller


def _map_special_ids(tokenizer: Json, change: Callable[[int], int]) -> None:
    """Replaces all ids outside the vocabulary, in place."""
    if tokenizer.get("padding"):
        tokenizer["padding"]["pad_id"] = change(tokenizer["padding"]["pad_id"])
    processors = [tokenizer["post_processor"]] if tokenizer.get("post_processor") else []
    while processors:
        processor = processors.pop()
        processors += processor.get("processors", [])
        for token in processor.get("special_tokens", {}).values():
            token["ids"] = [change(number) for number in token["ids"]]
        for name in ("sep", "cls"):
            if name in processor:
                processor[name] = [processor[name][0], change(processor[name][1])]


def _wordpiece(tokenizer: Json, used: set[str], unknown: Iterable[str]) -> set[str]:
    """Returns the pieces that match the beginning of words which become the unknown token.

    WordPiece repeatedly takes the longest matching piece, so words made of used pieces are split as before. A word
    that becomes the unknown token must remain so: without the long pieces that match its beginning, shorter ones could
    match all of it. The library does not return the partial match, so it is repeated here.
    """
    model = tokenizer["model"]
    vocabulary, prefix = model["vocab"], model["continuing_subword_prefix"]
    matches: set[str] = set()
    for word in set(unknown):
        if len(word) > model["max_input_chars_per_word"]:
            continue
        start = 0
        while start < len(word):
            lead = prefix if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if lead + word[start:end] in vocabulary), None)
            if end is None:
                break
            matches.add(lead + word[start:end])
            start = end
    return matches


def _bpe(tokenizer: Json, used: set[str], unknown: Iterable[str]) -> set[str]:
    """Returns the pieces that the used ones are merged from, down to single characters, and all byte pieces.

    BPE repeatedly applies the first possible merge of its list; without merges that a word never uses, the same ones
    are possible and applied.
    """
    model = tokenizer["model"]
    merged_from: dict[str, list[tuple[str, str]]] = {}
    for merge in model["merges"]:
        first, second = _parts(merge)
        merged_from.setdefault(_joined(model, first, second), []).append((first, second))
    pieces = {piece for piece in model["vocab"] if _BYTE.fullmatch(piece)} if model.get("byte_fallback") else set()
    if "ByteLevel" in str(tokenizer.get("pre_tokenizer")):
        pieces |= set(ByteLevel.alphabet()) & model["vocab"].keys()
    if model.get("unk_token"):
        pieces.add(model["unk_token"])
    pending = [*used]
    while pending:
        for parts in merged_from.pop(pending.pop(), []):
            pieces.update(parts)
            pending += parts
    return pieces


def _unigram(tokenizer: Json, used: set[str], unknown: Iterable[str]) -> set[str]:
    """Returns the unknown piece, the byte pieces if unknown characters become bytes, and the least likely piece.

    The most likely segmentation of a text remains the most likely one without the others. The score of an unknown
    character is derived from the least likely piece.
    """
    model = tokenizer["model"]
    pieces = {min(model["vocab"], key=lambda entry: entry[1])[0]}
    if model.get("unk_id") is not None:
        pieces.add(model["vocab"][model["unk_id"]][0])
    if model.get("byte_fallback"):
        pieces |= {piece for piece, _ in model["vocab"] if _BYTE.fullmatch(piece)}
    return pieces


def _wordlevel(tokenizer: Json, used: set[str], unknown: Iterable[str]) -> set[str]:
    """Returns no further pieces, as a word is its own piece."""
    return set()


_FINDERS: dict[str, Callable[[Json, set[str], Iterable[str]], set[str]]] = {
    "WordPiece": _wordpiece,
    "BPE": _bpe,
    "Unigram": _unigram,
    "WordLevel": _wordlevel,
}


def _infer_algorithm(model: Json) -> str:
    """Returns the algorithm of a model in a file of an early version, which does not name it."""
    if "merges" in model:
        return "BPE"
    return "WordPiece" if "max_input_chars_per_word" in model else "Unigram"


def _parts(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _joined(model: Json, first: str, second: str) -> str:
    return first + second.removeprefix(model.get("continuing_subword_prefix") or "")
