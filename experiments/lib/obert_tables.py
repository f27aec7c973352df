"""Tables of oBERT: one-shot, gradual, file sizes, and the cost of its inverse Fisher blocks."""

import re
from itertools import product

from lib.results_store import Row, read_result, read_rows
from lib.tables import MISSING, describe_kept, first_metric, format_divergence, format_metric, table

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
    """Tabulates accuracy by sparsity, of every update and number of recomputations, against magnitude."""
    sparsities = ("0.5", "0.7", "0.8", "0.9")
    metrics: dict[tuple[str, str, str], dict[str, float]] = {}
    for name, row in read_rows("obert", "sst2-0/unstructured-").items():
        match = re.fullmatch(r".*?-(?:(\w+)-(\d+)|magnitude)-([\d.]+)(-refitted)?", name.removeprefix("sst2-0/"))
        if match:
            key = (match[4] or "", match[1] or "magnitude", match[2] or "")
            metrics.setdefault(key, {})[match[3]] = first_metric(row["result"])
    rows = []
    for refitted, update in product(("", "-refitted"), UPDATES):
        for (ending, name, rounds), by_share in sorted(metrics.items(), key=lambda item: int(item[0][2] or 0)):
            if (ending, name) == (refitted, update):
                cells = [f"{by_share[share]:.1f}" if share in by_share else MISSING for share in sparsities]
                title = f"{UPDATES[name]}, compensated" if refitted else UPDATES[name]
                rows.append([title, rounds, *cells])
    dense = read_result("obert", "sst2-0/dense")
    title = "SST-2, MiniLM" if dense is None else f"SST-2, MiniLM, {dense['metrics']['accuracy']:.1f} dense"
    return table([title, "rounds of gradients", *(f"{float(share):.0%} zeros" for share in sparsities)], rows)


def obert_damping() -> str:
    """Tabulates divergence and accuracy of every update at every damping; each selects by its own scores."""
    sparsities = ("0.7", "0.8", "0.9")

    def cells(stem: str) -> list[str]:
        return [format_divergence(read_result("obert_damping", f"sst2-0/{stem}-{share}")) for share in sparsities]

    rows = [[MISSING, UPDATES["magnitude"], *cells("magnitude")]]
    for damping, update in product(("1e-07", "1e-06", "1e-05", "0.0001"), ("none", "obert", "greedy")):
        rows.append([f"{float(damping):g}", UPDATES[update], *cells(f"s512-{damping}-{update}")])
    header = ["damping λ", "KL(dense ‖ pruned) (accuracy)"]
    return table([*header, *(f"{float(share):.0%} zeros" for share in sparsities)], rows)


def grouped_zeros() -> str:
    """Tabulates accuracy of single weights pruned inside a structure, against single weights alone."""
    kept = ("0.3", "0.2", "0.1")
    titles = {
        "none": "oBERT alone",
        "pgb": "oBERT inside PGB's blocks",
        "auto": "oBERT inside the matrices that `auto` keeps",
    }
    rows = []
    for (ending, compensated), (name, title) in product((("", ""), ("-refitted", ", compensated")), titles.items()):
        results = [read_result("grouped_zeros", f"sst2-0/{name}-{share}{ending}") for share in kept]
        if any(results):
            start = read_result("grouped_zeros", f"sst2-0/{name}-start")
            rows.append([f"{title}{compensated}", *map(format_metric, (start, *results))])
    header = ["SST-2, MiniLM, one-shot", f"{describe_kept(0.5)}, structure alone"]
    return table([*header, *map(describe_kept, kept)], rows)


def _gradual_order(row: Row) -> tuple[float, float, int]:
    configuration = row["configuration"]
    return configuration["sparsity"], configuration["epochs"], list(STEPS).index(configuration["step"])


def gradual() -> str:
    """Tabulates quality and bytes after each step; ratios are to the raw dense model."""
    rows = []
    for task, title in (("sst2", "SST-2"), ("mrpc", "MRPC")):
        dense = read_result("gradual", f"{task}-0-dense")
        if dense is None:
            continue
        runs = [row for row in read_rows("gradual", f"{task}-0-").values() if "step" in row["configuration"]]
        steps = [("dense, fp32", "dense", dense, None)]
        for row in sorted(runs, key=_gradual_order):
            configuration = row["configuration"]
            step, epochs = configuration["step"], configuration["epochs"]
            description = STEPS[step if epochs or step != "oneshot" else "untrained"]
            description = description if "int8" in step else f"{configuration['sparsity']:.0%} {description}"
            trained = configuration.get("recipe", {}).get("epochs")
            steps.append((description, step, row["result"], trained))
        for description, step, result, epochs in steps:
            metric, value = next(iter(result["metrics"].items()))
            cells = [f"{title} {metric}", description, f"{value:.1f}", f"{value - dense['metrics'][metric]:+.1f}"]
            for part in ("encoder", "file"):
                size = result["bytes"][part]["raw" if step == "dense" else "zstd"]
                cells += [f"{size / 1e6:.1f}", f"{dense['bytes'][part]['raw'] / size:.1f}x"]
            rows.append([*cells, MISSING if epochs is None else f"{epochs:g}"])
    header = ["MiniLM", "", "metric", "against dense", "encoder, MB", "smaller", "whole file, MB", "smaller"]
    return table([*header, "epochs"], rows)


def sizes() -> str:
    """Tabulates sizes of file and encoder after each step, raw and compressed; ratios are to the raw dense model."""
    parts = []
    for row in read_rows("sizes").values():
        result, rows = row["result"], []
        previous = dense = result["rows"]["dense"]
        for name, bytes_of in result["rows"].items():
            cells = [f"{bytes_of[part][kind] / 1e6:.1f}" for part in ("encoder", "file") for kind in ("raw", "zstd")]
            ratios = [dense[part]["raw"] / bytes_of[part]["zstd"] for part in ("encoder", "file")]
            step = previous["file"]["zstd"] / bytes_of["file"]["zstd"]
            zeros = f"{result['sparsity']:.0%} zeros, {row['configuration']['pattern']}"
            title = {"dense": "dense, fp32", "zeros": zeros}.get(name, f"+ {name}")
            step_ratio = MISSING if name == "dense" else f"{step:.2f}x"
            rows.append([title, *cells[:2], f"{ratios[0]:.1f}x", *cells[2:], f"{ratios[1]:.1f}x", step_ratio])
            previous = bytes_of
        header = [f"{row['configuration']['model']}, MB", "encoder", "zstd", "smaller", "whole file", "zstd", "smaller"]
        parts.append(table([*header, "this step, whole file"], rows))
    return "\n\n".join(parts)


def fisher_engine() -> str:
    """Tabulates time and memory of one pruning by the size of a Fisher block, extrapolated to 1024 gradients."""
    measured = [row["configuration"] | row["result"] for row in read_rows("fisher_engine").values()]
    rows = []
    for run in sorted(measured, key=lambda run: (run["encoder_weights"], run["block_size"], run["memory_gb"])):
        seconds = 1024 / run["gradients"] * run["collecting_seconds"] + run["solving_seconds"]
        rows.append(
            [
                str(run["block_size"]),
                f"{run['encoder_weights'] / 1e6:.0f} M",
                f"{run['blocks_gib']:.1f}",
                f"{run['memory_gb']:g}",
                str(run["passes"]),
                str(run["gradients"]),
                f"{run['collecting_seconds']:.0f}",
                f"{run['solving_seconds']:.0f}",
                f"{seconds / 60:.0f}",
                f"{run['peak_without_gib']:.1f}",
                f"{run['peak_gib']:.1f}",
            ]
        )
    header = ["B", "weights", "all blocks, GiB", "`--memory-gb`", "passes", "gradients", "collecting, s", "solving, s"]
    return table([*header, "with 1024 gradients, min", "peak without, GiB", "peak, GiB"], rows)
