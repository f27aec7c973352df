"""Headers of safetensors files: lengths, shapes, offsets and names that no writer would write."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertsurgeon import load_model
from common import dense, main, pruned, refused

NAME = "bert.embeddings.word_embeddings.weight"


def _shape(*shape: int) -> Callable[[dict[str, Any]], object]:
    return lambda header: header[NAME].update(shape=list(shape))


def _overlap(header: dict[str, Any]) -> None:
    names = [name for name in header if name != "__metadata__"]
    sizes = {name: header[name]["data_offsets"][1] - header[name]["data_offsets"][0] for name in names}
    first, second = next((a, b) for a in names for b in names if a != b and sizes[a] == sizes[b])
    header[first]["data_offsets"] = header[second]["data_offsets"]


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a shape of 2^62 rows": _shape(2**62, 4),
    "a shape of no rows": _shape(0, 2**40),
    "a negative shape": _shape(-1, 32),
    "a shape of 10,000 axes": _shape(*[1] * 10_000),
    "two tensors in the same bytes": _overlap,
    "a hole": lambda header: header.pop(NAME),
    "an end before the start": lambda header: header[NAME].update(data_offsets=[8, 0]),
    "an end far behind the file": lambda header: header[NAME].update(data_offsets=[0, 2**60]),
    "another type": lambda header: header[NAME].update(dtype="I32"),
    "an unknown type": lambda header: header[NAME].update(dtype="EVIL"),
    "metadata that is no text": lambda header: header.update(__metadata__={"format": {"pt": 1}}),
    "a name of a megabyte": lambda header: header.update({"x" * 2**20: header.pop(NAME)}),
    "digests that are no JSON": lambda header: header.update(
        __metadata__={"format": "pt", "bertsurgeon": "[" * 10_000}
    ),
}


def _write(file: Path, header: bytes, rest: bytes, length: int | None = None) -> None:
    file.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + rest)


def attack(folder: Path) -> list[str]:
    lines = []
    for source in (dense(folder / "dense"), pruned(folder / "pruned")):
        model = shutil.copytree(source, folder / "model")
        file = model / "model.safetensors"
        content = file.read_bytes()
        size = int.from_bytes(content[:8], "little")
        text, rest = content[8 : 8 + size], content[8 + size :]
        for what, change in CHANGES.items():
            if "digests" in what and source.name == "pruned":
                continue  # those of a pruned model are in config.json
            header = json.loads(text)
            change(header)
            _write(file, json.dumps(header).encode(), rest)
            lines.append(refused(f"{what} ({source.name})", lambda: load_model(model)))
        for length in (0, 1, 2**20, 2**40, 2**64 - 1):
            _write(file, text, rest, length)
            lines.append(refused(f"a header of {length:,} bytes ({source.name})", lambda: load_model(model)))
        twice = (
            text[:-1].rstrip(b"} ") + b'},"' + NAME.encode() + b'":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        )
        _write(file, twice, rest)
        lines.append(refused(f"a name that is there twice ({source.name})", lambda: load_model(model)))
        nested = text[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        _write(file, nested, rest)
        lines.append(refused(f"100,000 lists inside each other ({source.name})", lambda: load_model(model)))
        shutil.rmtree(model)
    return lines


if __name__ == "__main__":
    main(attack)
