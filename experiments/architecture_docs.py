"""Tables of the supported architectures, and of the pruned decoder."""

import json
from typing import Any

from architecture_table import TASKS, find_class
from bertsurgeon.architectures import ARCHITECTURES
from bertsurgeon.plan import ALL_ROLES
from common import RESULTS
from tables import read, table


def architectures() -> str:
    """Architecture × kind of head: whether pruned models say the same everywhere."""
    rows = []
    for name in ARCHITECTURES:
        cells = []
        for task in TASKS:
            result = read(f"architectures/{name}/{task.replace(' ', '-')}")
            missing = "" if find_class(name, task) is None else "✗"
            cells.append("✓" if result is not None and result["works"] else missing)
        rows.append([f"`{name}`", *cells])
    return table(["`model_type`", *TASKS], rows)


def names() -> str:
    """Where each family keeps its matrices."""
    families: dict[tuple[str, ...], list[str]] = {}
    for architecture in ARCHITECTURES.values():
        paths = tuple(architecture.matrices.get(role, "") for role in ALL_ROLES)
        families.setdefault((architecture.encoder, *paths), []).append(f"`{architecture.name}`")
    rows = [
        [", ".join(members), f"`{encoder}.i.`", *(f"`{path}`" if path else "" for path in paths)]
        for (encoder, *paths), members in families.items()
    ]
    return table(["architecture", "layers", *(f"`{role}`" for role in ALL_ROLES)], rows)


def decoder() -> str:
    """Perplexity of the pruned decoders."""
    rows = []
    for folder in sorted((RESULTS / "decoder").glob("*")):
        place = f"decoder/{folder.name}"
        dense = read(f"{place}/dense")
        if dense is None:
            continue
        size = f"{folder.name.split('-')[0]}, {dense['parameters'] / 1e6:.1f} M parameters"
        trained_on = read(f"{place}/dense-trained-on") or {}
        rows.append([f"{size}, dense", "–", *_perplexities(dense | trained_on, "perplexity", "seen")])
        for path in sorted(folder.glob("*-0.*.json"), key=lambda path: path.stem.split("-")[::-1]):
            result = json.loads(path.read_text(encoding="utf-8"))
            method, share = path.stem.split("-")
            title = "**auto**" if method == "auto" else "heads and neurons with the smallest norms"
            removed = _perplexities(result, "removed_only", "")[0]
            cells = _perplexities(result, "compensated", "compensated_seen")
            rows.append([f"{title}, {float(share):.0%} removed", removed, *cells])
    head = ["perplexity on held-out docstrings", "removed", "as it is", "its texts", "trained on", "its texts"]
    return table(head, rows) if rows else ""


def _perplexities(result: dict[str, Any], name: str, seen: str) -> list[str]:
    """Before and after training on: on held-out texts and on those of training."""
    names = (name, seen, "recovered", "recovered_seen")
    return [f"{result[key]:.1f}" if key in result else "–" for key in names]
