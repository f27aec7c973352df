"""Tables of oBERT: one-shot, gradual, what its files take, and what its engine costs."""

import json
import re
from itertools import product

from common import RESULTS
from tables import read, table

UPDATES = {
    "magnitude": "magnitude, all matrices together",
    "none": "oBERT's choice, no update",
    "obert": "oBERT",
    "greedy": "greedy within a block",
    "woodtaylor": "WoodTaylor",
}
STEPS = {
    "zeros": "zeros, distilled while pruned",
    "int8": "+ matrices and embeddings in INT8",
    "early": "zeros, distilled while pruned, most of them early",
    "early_int8": "+ matrices and embeddings in INT8",
    "oneshot": "zeros at once, compensated, then distilled",
    "untrained": "zeros at once, compensated",
    "oneshot_int8": "+ matrices and embeddings in INT8",
}


def obert() -> str:
    """Accuracy by sparsity, of every update and number of recomputations, against magnitude."""
    place = RESULTS / "obert" / "sst2-0"
    sparsities = ("0.5", "0.7", "0.8", "0.9")
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for path in place.glob("unstructured-*.json"):
        match = re.fullmatch(r".*?-(?:(\w+)-(\d+)|magnitude)-([\d.]+)(-refitted)?", path.stem)
        if match:
            metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
            row = (match[4] or "", match[1] or "magnitude", match[2] or "")
            found.setdefault(row, {})[match[3]] = next(iter(metrics.values()))
    rows = []
    for refitted, update in product(("", "-refitted"), UPDATES):
        for (end, name, rounds), metrics in sorted(found.items(), key=lambda one: int(one[0][2] or 0)):
            if (end, name) == (refitted, update):
                cells = [f"{metrics[share]:.1f}" if share in metrics else "–" for share in sparsities]
                title = f"{UPDATES[name]}, compensated" if refitted else UPDATES[name]
                rows.append([title, rounds, *cells])
    dense = read("obert/sst2-0/dense")
    title = "SST-2, MiniLM" if dense is None else f"SST-2, MiniLM, {dense['metrics']['accuracy']:.1f} dense"
    return table([title, "rounds of gradients", *(f"{float(share):.0%} zeros" for share in sparsities)], rows)


def obert_damping() -> str:
    """Divergence and accuracy of every update at every damping, with the choice of weights that belongs to it."""
    place, sparsities = "obert-damping/sst2-0", ("0.7", "0.8", "0.9")

    def cells(stem: str) -> list[str]:
        found = [read(f"{place}/{stem}-{sparsity}") for sparsity in sparsities]
        return ["–" if one is None else f"{one['divergence']:.3f} ({one['metrics']['accuracy']:.1f})" for one in found]

    rows = [["–", UPDATES["magnitude"], *cells("magnitude")]]
    for damping, update in product(("1e-07", "1e-06", "1e-05", "0.0001"), ("none", "obert", "greedy")):
        rows.append([f"{float(damping):g}", UPDATES[update], *cells(f"s512-{damping}-{update}")])
    header = ["damping λ", "KL(dense ‖ pruned), in brackets accuracy"]
    return table([*header, *(f"{float(share):.0%} zeros" for share in sparsities)], rows)


def grouped_zeros() -> str:
    """Accuracy of single weights taken out of what a structure leaves, against single weights alone."""
    place, kept = "grouped_zeros/sst2-0", ("0.3", "0.2", "0.1")
    titles = {"none": "oBERT alone", "pgb": "oBERT inside PGB's blocks", "auto": "oBERT inside what `auto` leaves"}
    start, rows = {name: read(f"{place}/{name}-start") for name in titles}, []
    for (end, compensated), (name, title) in product((("", ""), ("-refitted", ", compensated")), titles.items()):
        found = [read(f"{place}/{name}-{share}{end}") for share in kept]
        if any(found):
            cells = ["–" if one is None else f"{one['metrics']['accuracy']:.1f}" for one in (start[name], *found)]
            rows.append([f"{title}{compensated}", *cells])
    header = ["SST-2, MiniLM, one-shot", "50% kept, structure alone"]
    return table([*header, *(f"{float(share):.0%} kept" for share in kept)], rows)


def gradual() -> str:
    """Quality and bytes after each step; ratios are to the dense model, raw."""
    rows = []
    for task, title in (("sst2", "SST-2"), ("mrpc", "MRPC")):
        dense = read(f"gradual/{task}-0-dense")
        if dense is None:
            continue
        runs = sorted(
            (float(sparsity), float(epochs), list(STEPS).index(step), step)
            for path in (RESULTS / "gradual").glob(f"{task}-0-*-*-*.json")
            for sparsity, epochs, step in [path.stem.split("-")[2:]]
        )
        found = [("dense, fp32", "dense", dense)]
        for sparsity, epochs, _, step in runs:
            title_of = STEPS[step if epochs or step != "oneshot" else "untrained"]
            title_of = title_of if "int8" in step else f"{sparsity:.0%} {title_of}"
            result = read(f"gradual/{task}-0-{sparsity:g}-{epochs:g}-{step}")
            assert result is not None
            found.append((title_of, step, result))
        for name, step, result in found:
            metric, value = next(iter(result["metrics"].items()))
            cells = [f"{title} {metric}", name, f"{value:.1f}", f"{value - dense['metrics'][metric]:+.1f}"]
            for part in ("encoder", "file"):
                size = result["bytes"][part]["raw" if step == "dense" else "zstd"]
                cells += [f"{size / 1e6:.1f}", f"{dense['bytes'][part]['raw'] / size:.1f}x"]
            epochs = result.get("recipe", {}).get("epochs")
            rows.append([*cells, "–" if epochs is None else f"{epochs:g}"])
    header = ["MiniLM", "", "metric", "against dense", "encoder, MB", "smaller", "whole file, MB", "smaller"]
    return table([*header, "epochs"], rows)


def sizes() -> str:
    """Per model: what a file and its encoder take, raw and compressed, after each step; ratios are to dense, raw."""
    parts = []
    for path in sorted((RESULTS / "sizes").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        rows: list[list[str]] = []
        before = dense = result["rows"]["dense"]
        for name, found in result["rows"].items():
            cells = [f"{found[part][kind] / 1e6:.1f}" for part in ("encoder", "file") for kind in ("raw", "zstd")]
            smaller = dense["encoder"]["raw"] / found["encoder"]["zstd"], dense["file"]["raw"] / found["file"]["zstd"]
            step = before["file"]["zstd"] / found["file"]["zstd"]
            share = "–" if name == "dense" else f"{step:.2f}x"
            title = f"{result['sparsity']:.0%} zeros, {result['pattern']}" if name == "zeros" else f"+ {name}"
            title = "dense, fp32" if name == "dense" else title
            rows.append([title, *cells[:2], f"{smaller[0]:.1f}x", *cells[2:], f"{smaller[1]:.1f}x", share])
            before = found
        header = [
            f"{result['model']}, MB",
            "encoder",
            "zstd",
            "smaller",
            "whole file",
            "zstd",
            "smaller",
            "this step, whole file",
        ]
        parts.append(table(header, rows))
    return "\n\n".join(parts)


def fisher_engine() -> str:
    """Time and memory of one pruning by the size of a Fisher block, and what 1024 gradients would take."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (RESULTS / "fisher_engine").glob("*.json")]
    rows = []
    for result in sorted(found, key=lambda one: (one["encoder_weights"], one["block_size"], one["memory_gb"])):
        more = 1024 / result["gradients"] * result["collecting_seconds"] + result["solving_seconds"]
        rows.append(
            [
                str(result["block_size"]),
                f"{result['encoder_weights'] / 1e6:.0f} M",
                f"{result['blocks_gib']:.1f}",
                f"{result['memory_gb']:g}",
                str(result["passes"]),
                str(result["gradients"]),
                f"{result['collecting_seconds']:.0f}",
                f"{result['solving_seconds']:.0f}",
                f"{more / 60:.0f}",
                f"{result['peak_without_gib']:.1f}",
                f"{result['peak_gib']:.1f}",
            ]
        )
    header = ["B", "weights", "all blocks, GiB", "`--memory-gb`", "passes", "gradients", "collecting, s", "solving, s"]
    return table([*header, "with 1024 gradients, min", "peak without, GiB", "peak, GiB"], rows)
