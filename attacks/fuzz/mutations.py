"""Structure-aware mutations of JSON, safetensors files and text; each takes and returns bytes."""

import json
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    10**6,
    2**31,
    2**63,
    10**30,
    0.5,
    -1.5,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "0",
    "x",
    "0-1",
    "1-0",
    "0-16777214",
    "٣",
    "../../etc/passwd",
    "dense",
    "grouped",
    "float16",
    "Trainer",
    [],
    [0],
    [[]],
    ["0-3", "0-3"],
    {},
    {"kind": "dropped"},
)
"""Values that replace others."""

TEXTS = (
    b"\x00",
    b"\xff\xfe",
    b"[" * 400,
    b"{" * 60,
    b"9" * 5000,
    b'"',
    b"\\",
    b",",
    b"\n",
    b"-",
    b": ",
    b"- ",
    b"\t",
    b"&a ",
)
"""Texts that are inserted."""


def mutate_json(content: bytes, random: Random) -> bytes:
    """Changes one to three values, keys or entries; now and then the text instead."""
    if random.random() < 0.15:
        return mutate_text(content, random)
    return json.dumps(mutate_value(json.loads(content), random), indent=random.choice((None, 1))).encode()


def mutate_value(value: Any, random: Random) -> Any:
    """Changes one to three values, keys or entries of plain data, in place; returns the data."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        value = _change(value, random)
    return value


def _change(root: Any, random: Random) -> Any:
    places = _places(root)
    if not places:
        return _new_value(random)
    parent, key = random.choice(places)
    kind = random.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(random.randrange(len(parent) + 1), json.loads(json.dumps(parent[key])))
    elif kind == 1:
        parent[f"{key}{random.choice(('', '_', 's'))}"] = json.loads(json.dumps(parent[key]))
    elif kind == 2:
        other_parent, other_key = random.choice(places)
        parent[key] = json.loads(json.dumps(other_parent[other_key]))
    elif kind == 3 and isinstance(parent[key], list):
        random.shuffle(parent[key])
    elif kind == 4 and isinstance(parent[key], int | float):
        parent[key] += random.choice((1, -1, 0.5, 2**20))
    elif kind == 5 and isinstance(parent[key], str):
        parent[key] = mutate_text(parent[key].encode(), random).decode("utf-8", "replace")
    elif kind == 6:
        for _ in range(random.choice((1, 3, 70))):
            parent[key] = [parent[key]]
    else:
        parent[key] = _new_value(random)
    return root


def _new_value(random: Random) -> Any:
    """Returns one of the values, of lists and dictionaries a copy: later changes must not reach the next cases."""
    return deepcopy(random.choice(VALUES))


def _places(root: Any) -> list[tuple[Any, Any]]:
    places: list[tuple[Any, Any]] = []
    parts = [root]
    while parts:
        part = parts.pop()
        if isinstance(part, dict | list):
            keys = list(part) if isinstance(part, dict) else range(len(part))
            places += [(part, key) for key in keys]
            parts += [part[key] for key in keys]
    return places


def mutate_text(content: bytes, random: Random) -> bytes:
    """Flips a bit, cuts, inserts, repeats or exchanges parts."""
    text = bytearray(content)
    if not text:
        return random.choice(TEXTS)
    place = random.randrange(len(text))
    end = min(len(text), place + random.choice((1, 2, 8, 64)))
    kind = random.randrange(6)
    if kind == 0:
        text[place] ^= 1 << random.randrange(8)
    elif kind == 1:
        del text[place:end]
    elif kind == 2:
        del text[place:]
    elif kind == 3:
        text[place:place] = random.choice(TEXTS)
    elif kind == 4:
        text[place:place] = text[place:end] * random.choice((1, 2, 50))
    else:
        text[place:end] = bytes(reversed(text[place:end]))
    return bytes(text)


def mutate_safetensors(content: bytes, random: Random) -> bytes:
    """Flips a bit of the tensors or the header, cuts, appends, or changes the header as JSON."""
    size = int.from_bytes(content[:8], "little")
    kind = random.randrange(6)
    if kind <= 1:
        place = random.randrange(8 + size, len(content)) if kind else random.randrange(8 + size)
        flipped = bytearray(content)
        flipped[place] ^= 1 << random.randrange(8)
        return bytes(flipped)
    if kind == 2:
        return content[: random.randrange(len(content))]
    if kind == 3:
        return content + bytes(random.randrange(1, 64))
    if kind == 4:
        header = mutate_json(content[8 : 8 + size], random)
        return len(header).to_bytes(8, "little") + header + content[8 + size :]
    lengths = (0, 1, size - 8, size + 8, 2**32, 2**63)
    return random.choice(lengths).to_bytes(8, "little") + content[8:]


Mutation = Callable[[bytes, Random], bytes]
