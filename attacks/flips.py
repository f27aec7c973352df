"""Flips bits, one at a time, in the weights and the headers of saved models, and counts what loading makes of it.

    python attacks/flips.py --flips 40 --write

Every flipped bit of a weight must be refused by the name of its tensor; one of a header must be refused, or change
nothing. Both for ``load_model`` and for ``from_pretrained`` after ``import bertsurgeon``.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bertsurgeon import AutoConfig, ObertConfig, PgbConfig, Sparsity, load_model, prune, save_model
from bertsurgeon.errors import BertSurgeonError
from bertsurgeon.testing import toy_classifier
from fuzz.run import quiet
from tables import write_table

RESULTS = Path(__file__).with_name("flips.json")
OUTCOMES = ("named", "refused", "equal", "wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=40, help="flips of each kind, for each model and loader")
    parser.add_argument("--write", action="store_true", help="write flips.json and the table of the docs")
    arguments = parser.parse_args()
    quiet()
    with TemporaryDirectory() as folder:
        counts = flip_models(Path(folder), arguments.flips)
    failed = 0
    rows = [["model", "loaded by", "flipped in", *OUTCOMES]]
    for (model, loader, part), outcomes in counts.items():
        rows.append([model, f"`{loader}`", part, *(str(outcomes[outcome]) for outcome in OUTCOMES)])
        failed += outcomes["wrong"] + (outcomes.total() - outcomes["named"] if part == "weights" else 0)
    print("\n".join(" | ".join(row) for row in rows), f"\n{failed} failures")
    if arguments.write:
        content = [
            dict(zip(("model", "loader", "part"), key, strict=True)) | dict(value) for key, value in counts.items()
        ]
        RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        write_table("flips", "attacks/flips.py --write", rows)
    raise SystemExit(1 if failed else 0)


def flip_models(folder: Path, flips: int) -> dict[tuple[str, str, str], Counter[str]]:
    """Saves one model of each kind and flips bits in its file; returns counts of outcomes."""
    model, tokenizer, rows = toy_classifier()
    texts = list(rows["text"])
    configs: dict[str, Any] = {
        "auto": AutoConfig(Sparsity(0.5), samples=16),
        "pgb": PgbConfig(Sparsity(0.5), importance="magnitude", compensation="none"),
        "obert": ObertConfig(Sparsity(0.5), samples=16),
    }
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for name in ("dense", *configs):
        network = prune(model, configs[name], texts, tokenizer).model if name in configs else model
        save_model(network, folder / name)
        loaders: dict[str, Callable[[Path], PreTrainedModel]] = {"load_model": load_model}
        if name != "dense":
            loaders["from_pretrained"] = AutoModelForSequenceClassification.from_pretrained
        for loader, load in loaders.items():
            for part in ("weights", "header"):
                counts[name, loader, part] = _flip(folder / name, load, part, flips, Random(f"{name} {loader} {part}"))
    return counts


def _flip(folder: Path, load: Callable[[Path], PreTrainedModel], part: str, flips: int, random: Random) -> Counter[str]:
    file = folder / "model.safetensors"
    content, outcomes = file.read_bytes(), Counter[str]()
    size = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:size])
    expected = load(folder).state_dict()
    for _ in range(flips):
        place = random.randrange(size, len(content)) if part == "weights" else random.randrange(size)
        flipped = bytearray(content)
        flipped[place] ^= 1 << random.randrange(8)
        file.write_bytes(flipped)
        outcomes[_outcome(folder, load, expected, _tensor_at(header, place - size))] += 1
    file.write_bytes(content)
    return outcomes


def _tensor_at(header: dict[str, Any], place: int) -> str | None:
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] <= place < entry["data_offsets"][1]:
            return str(name)
    return None


def _outcome(
    folder: Path, load: Callable[[Path], PreTrainedModel], expected: dict[str, torch.Tensor], name: str | None
) -> str:
    try:
        state = load(folder).state_dict()
    except BertSurgeonError as error:
        return "named" if name is not None and f" {name} " in str(error) else "refused"
    except Exception:  # transformers and safetensors refuse headers by errors of their own
        return "refused"
    is_equal = state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)
    return "equal" if is_equal else "wrong"


if __name__ == "__main__":
    main()
