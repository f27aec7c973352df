"""Which pieces of a vocabulary some texts need, and the tokenizer with these alone.

All of it works on the JSON of the library tokenizers, which every fast tokenizer is written as. What must stay for the
texts to fall into the same pieces depends on how a tokenizer looks for them.
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
    """All pieces without which some texts would be tokenized otherwise.

    Args:
        tokenizer: JSON of a tokenizer.
        used: Pieces that the texts consist of.
        unknown: Words of the texts that may have no pieces.

    Raises:
        ModelError: If it is of a kind that is not known.
    """
    model = tokenizer["model"]
    kind = model.get("type") or _guess_type(model)
    try:
        finder = _FINDERS[kind]
    except KeyError:
        raise ModelError(
            f"A tokenizer of the kind {kind} cannot be trimmed; those that can are {', '.join(_FINDERS)}."
        ) from None
    found = used | finder(tokenizer, used, unknown)
    return found | {token["content"] for token in tokenizer.get("added_tokens", [])}


def piece_ids(tokenizer: Json) -> dict[str, int]:
    """The id of every piece, added tokens included."""
    vocabulary = tokenizer["model"]["vocab"]
    ids = (
        dict(vocabulary)
        if isinstance(vocabulary, Mapping)
        else {piece: number for number, (piece, _) in enumerate(vocabulary)}
    )
    return ids | {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}


def special_ids(tokenizer: Json) -> set[int]:
    """Ids that a tokenizer puts in by itself: those around a text, and padding."""
    found: set[int] = set()

    def keep(token: int) -> int:
        found.add(token)
        return token

    _map_specials(deepcopy(tokenizer), keep)
    return found


def keep_pieces(tokenizer: Json, kept: list[int]) -> Json:
    """A tokenizer with some of its pieces; their new ids are their places in ``kept``.

    Args:
        tokenizer: JSON of a tokenizer.
        kept: Ids, ascending.
    """
    new = {old: place for place, old in enumerate(kept)}
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
    _map_specials(smaller, new.__getitem__)
    return smaller


def _map_specials(tokenizer: Json, change: Callable[[int], int]) -> None:
    """Changes the ids outside the vocabulary, in place."""
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
    """Pieces on the way to where a word of the texts has none.

    The longest piece is taken again and again, so what the texts consist of is found again without the others. But a
    word that leads nowhere must lead nowhere still, and not be spelled by shorter pieces. The library does not tell how
    far it came, so it is followed here.
    """
    model = tokenizer["model"]
    vocabulary, prefix = model["vocab"], model["continuing_subword_prefix"]
    found: set[str] = set()
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
            found.add(lead + word[start:end])
            start = end
    return found


def _bpe(tokenizer: Json, used: set[str], unknown: Iterable[str]) -> set[str]:
    """What the pieces are merged from, down to single characters, and all bytes where there are any.

    Of the merges that are possible in a word the first one in the list is done; without merges that it never needed,
    the same ones are possible and done.
    """
    model = tokenizer["model"]
    made_of: dict[str, list[tuple[str, str]]] = {}
    for merge in model["merges"]:
        first, second = _parts(merge)
        made_of.setdefault(_joined(model, first, second), []).append((first, second))
    found = {piece for piece in model["vocab"] if _BYTE.fullmatch(piece)} if model.get("byte_fallback") else set()
    if "ByteLevel" in str(tokenizer.get("pre_tokenizer")):
        found |= set(ByteLevel.alphabet()) & model["vocab"].keys()
    if model.get("unk_token"):
        found.add(model["unk_token"])
    open_pieces = [*used]
    while open_pieces:
        for parts in made_of.pop(open_pieces.pop(), []):
            found.update(parts)
            open_pieces += parts
    return found


def _unigram(tokenizer: Json, used: set[str], unknown: Iterable[str]) -> set[str]:
    """The unknown piece, the bytes if it falls back on them, and the least likely piece.

    The likeliest way through a text stays the likeliest one where others go. What an unknown character costs is counted
    from the least likely piece.
    """
    model = tokenizer["model"]
    found = {min(model["vocab"], key=lambda entry: entry[1])[0]}
    if model.get("unk_id") is not None:
        found.add(model["vocab"][model["unk_id"]][0])
    if model.get("byte_fallback"):
        found |= {piece for piece, _ in model["vocab"] if _BYTE.fullmatch(piece)}
    return found


def _wordlevel(tokenizer: Json, used: set[str], unknown: Iterable[str]) -> set[str]:
    """Nothing else: a word is its own piece."""
    return set()


_FINDERS: dict[str, Callable[[Json, set[str], Iterable[str]], set[str]]] = {
    "WordPiece": _wordpiece,
    "BPE": _bpe,
    "Unigram": _unigram,
    "WordLevel": _wordlevel,
}


def _guess_type(model: Json) -> str:
    """The kind of a model in a file of an early version, which does not name it."""
    if "merges" in model:
        return "BPE"
    return "WordPiece" if "max_input_chars_per_word" in model else "Unigram"


def _parts(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _joined(model: Json, first: str, second: str) -> str:
    return first + second.removeprefix(model.get("continuing_subword_prefix") or "")
