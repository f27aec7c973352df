"""Tables of the supported architectures, and the kinds of heads that they are tried with."""

import sys
from typing import Any

import transformers

from bertsurgeon.architectures import ARCHITECTURES
from bertsurgeon.plan import ALL_ROLES
from lib.results_store import ROOT, read_result
from lib.tables import table

sys.path.insert(0, str(ROOT / "tests"))
from architecture_cases import CONFIGS, make_batches, make_model

__all__ = ["CONFIGS", "HEADS", "architectures", "find_class", "make_batches", "make_model", "names"]

HEADS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "classification": ("AutoModelForSequenceClassification", {"num_labels": 3}, ("logits",)),
    "regression": ("AutoModelForSequenceClassification", {"num_labels": 1}, ("logits",)),
    "token classification": ("AutoModelForTokenClassification", {"num_labels": 5}, ("logits",)),
    "question answering": ("AutoModelForQuestionAnswering", {}, ("start_logits", "end_logits")),
    "embeddings": ("AutoModel", {}, ("sentence_embedding",)),
    "image classification": ("AutoModelForImageClassification", {"num_labels": 3}, ("logits",)),
    "language model": ("AutoModelForCausalLM", {}, ("logits",)),
}
"""Auto class, entries of the configuration, and outputs of each kind of head."""


def find_class(name: str, head: str) -> Any:
    """Returns the Auto class, or None where the architecture has no such head."""
    auto = getattr(transformers, HEADS[head][0])
    if head == "language model" and not ARCHITECTURES[name].decoder:
        return None
    if (head == "image classification") != (name == "vit"):
        return None
    return auto if CONFIGS[name][0][0] in auto._model_mapping else None


def architectures() -> str:
    """Tabulates which pruned models have the same outputs after reloading and export, by architecture and head."""
    rows = []
    for name in ARCHITECTURES:
        cells = []
        for head in HEADS:
            result = read_result("architecture_table", f"{name}/{head.replace(' ', '-')}")
            missing = "" if find_class(name, head) is None else "✗"
            cells.append("✓" if result is not None and result["works"] else missing)
        rows.append([f"`{name}`", *cells])
    return table(["`model_type`", *HEADS], rows)


def names() -> str:
    """Tabulates parameter names of each family's matrices."""
    families: dict[tuple[str, ...], list[str]] = {}
    for architecture in ARCHITECTURES.values():
        paths = tuple(architecture.matrices.get(role, "") for role in ALL_ROLES)
        families.setdefault((architecture.encoder, *paths), []).append(f"`{architecture.name}`")
    rows = [
        [", ".join(members), f"`{encoder}.i.`", *(f"`{path}`" if path else "" for path in paths)]
        for (encoder, *paths), members in families.items()
    ]
    return table(["architecture", "layers", *(f"`{role}`" for role in ALL_ROLES)], rows)
