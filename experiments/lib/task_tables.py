"""Tables of question answering, of the embedder, and of the decoders."""

from itertools import product
from typing import Any

from lib.results_store import Row, read_result, read_row, read_rows
from lib.tables import FLOPS_KEPT, MISSING, WEIGHTS_KEPT, format_kept, format_speedup, table


def squad() -> str:
    """Tabulates F1 and exact match of every method at every share, one-shot and recovered."""
    titles = {"auto": "**auto**, no labels", "pgb": "pgb", "obert": "obert, single weights"}
    stored_rows = read_rows("squad")
    if "dense" not in stored_rows:
        return "_No results yet: `python experiments/squad.py`._"
    rows = [
        ["dense", format_kept(1), format_kept(1), *_answer_scores(stored_rows["dense"]["result"]), MISSING, MISSING]
    ]
    for share, method in product(("0.5", "0.25"), titles):
        one_shot, recovered = (read_result("squad", f"{method}-{share}{ending}") for ending in ("", "-recovered"))
        if one_shot is not None:
            kept = [format_kept(one_shot[name]) for name in ("kept_share", "flops_share")]
            rows.append([titles[method], *kept, *_answer_scores(one_shot), *_answer_scores(recovered)])
    train, validation = stored_rows["dense"]["configuration"]["questions"]
    header = [f"SQuAD v1.1 format, {train} / {validation} questions, all-MiniLM-L6-v2", WEIGHTS_KEPT, FLOPS_KEPT]
    return table([*header, "F1, one-shot", "exact match", "F1, recovered", "exact match"], rows)


def _answer_scores(result: dict[str, Any] | None) -> list[str]:
    names = ("f1", "exact_match")
    return [MISSING, MISSING] if result is None else [f"{result['metrics'][name]:.1f}" for name in names]


EMBEDDER = {
    "dense": ("dense", "dense", "pytorch", "fp32"),
    "dense-int8": ("dense, INT8", "dense", "int8", "int8"),
    "auto-0.9": ("**auto**, one-shot", "auto-0.9", "pytorch", "fp32"),
    "auto-0.8": ("**auto**, one-shot", "auto-0.8", "pytorch", "fp32"),
    "auto-0.7": ("**auto**, one-shot", "auto-0.7", "pytorch", "fp32"),
    "auto-0.5": ("**auto**, one-shot", "auto-0.5", "pytorch", "fp32"),
    "auto-0.5-recovered": ("**auto**, recovered", "auto-0.5", "pytorch", "fp32"),
    "auto-0.5-int8": ("**auto**, one-shot, INT8", "auto-0.5", "int8", "int8"),
    "auto-0.25": ("**auto**, one-shot", "auto-0.25", "pytorch", "fp32"),
    "auto-0.25-recovered": ("**auto**, recovered", "auto-0.25", "pytorch", "fp32"),
    "auto-0.25-int8": ("**auto**, one-shot, INT8", "auto-0.25", "int8", "int8"),
}
"""Title, the row that has the size, and the ends of the rows that have the speeds; recovery changes neither."""


def embedder() -> str:
    """Tabulates quality and speed of the embedder at every share."""
    rows = []
    for name, (title, size, runtime, precision) in EMBEDDER.items():
        result, sized = read_result("embedder", name), read_result("embedder", size)
        if result is not None:
            metrics = ("stsb_dev", "stsb_test", "recall_at_10", "rank_overlap")
            speeds = [
                (read_result("embedder", f"speed-{size}-{ending}") or {}).get("speedup", {}).get(shape)
                for ending in (runtime, precision)
                for shape in ("1x128", "8x128")
            ]
            kept = MISSING if sized is None else format_kept(sized["kept_share"])
            cells = [f"{result['metrics'][metric]:.1f}" for metric in metrics]
            pytorch = [MISSING] * 2 if runtime == "int8" else [format_speedup(speed) for speed in speeds[:2]]
            rows.append([title, kept, *cells, *pytorch, *(format_speedup(speed) for speed in speeds[2:])])
    if not rows:
        return "_No results yet: `python experiments/embedder.py`._"
    header = ["all-MiniLM-L6-v2, no labels", WEIGHTS_KEPT, "STS-B dev, Spearman", "test", "recall@10"]
    return table([*header, "rank overlap", "PyTorch 1×128", "8×128", "ONNX Runtime 1×128", "8×128"], rows)


def embedder_recovery() -> str:
    """Tabulates the recovered embedder by learning rate, use of the teacher's hidden states, and length."""

    def order(row: Row) -> tuple[bool, float, float]:
        options = row["configuration"]["training"]
        return options["max_steps"] < 0, options["hidden_weight"], options["learning_rate"]

    rows = []
    recovered = (row for name, row in read_rows("embedder").items() if name.endswith("auto-0.5-recovered"))
    for row in sorted(recovered, key=order):
        options, metrics = row["configuration"]["training"], row["result"]["metrics"]
        length = f"{options['max_steps']} steps" if options["max_steps"] > 0 else f"{options['epochs']:g} epochs"
        hidden = "yes" if options["hidden_weight"] else "no"
        cells = [f"{metrics[name]:.1f}" for name in ("stsb_dev", "recall_at_10", "cosine")]
        rows.append([length, f"{options['learning_rate']:g}", hidden, *cells, f"{row['seconds'] / 60:.0f}"])
    header = [
        "auto, 50 % removed, recovered for",
        "learning rate",
        "hidden states as well",
        "STS-B dev",
        "recall@10",
        "cosine",
    ]
    return table([*header, "minutes, one core"], rows)


EMBEDDER_OPTIONS = {
    "dense": "all-MiniLM-L6-v2, dense",
    "one-shot": "a quarter kept, one-shot",
    "many-texts": "… 3,000 calibration texts, about four times as many",
    "even-tokens": "… all tokens of a text weigh the same in regressions",
    "sensitive-tokens": "… tokens weigh by sensitivity alone",
    "plain-errors": "… errors of all directions weigh the same",
    "documents-calibration": "… calibrated on the documents alone",
    "refit": "… **refit** on the calibration texts",
    "refit-documents": "… **refit** on the documents",
    "documents-calibration-refit": "… calibrated and **refit** on the documents",
    "plain": "recovered by the loss of `recover`, 2e-4",
    "rate-0.0005": "… 5e-4",
    "rate-0.001": "… 1e-3",
    "bank": "… and cosines with 4,096 texts, 2e-4",
    "ranks": "… and the softmax of these cosines, 2e-4",
    "sentences": "… on the documents and their sentences, 2e-4",
    "plain-refit": "recovered, then **refit** on the documents",
    "sentences-refit": "recovered on documents and sentences, then **refit** on the documents",
}
"""Rows and their titles."""


def embedder_options() -> str:
    """Tabulates a quarter of an embedder by the options that it was pruned and recovered with."""
    rows = []
    for name, title in EMBEDDER_OPTIONS.items():
        row = read_row("embedder_options", f"minilm-0.25/{name}")
        if row is None:
            continue
        metrics = row["result"]["metrics"]
        names = ("ndcg_at_10", "recall_at_100", "stsb_dev", "stsb_test", "recall_at_10", "cosine")
        rows.append([title, *(f"{metrics[metric]:.1f}" for metric in names)])
    header = ["", "Cranfield nDCG@10", "Recall@100", "STS-B dev", "test", "recall@10 of the dense neighbors", "cosine"]
    return table(header, rows) if rows else ""


def decoder() -> str:
    """Tabulates perplexity of the pruned decoders."""
    rows = []
    for model in sorted({name.split("/")[0] for name in read_rows("decoder")}):
        dense = read_result("decoder", f"{model}/dense")
        if dense is None:
            continue
        size = f"{model.split('-')[0]}, {dense['parameters'] / 1e6:.1f} M parameters"
        trained_on = read_result("decoder", f"{model}/dense-trained-on") or {}
        cells = _perplexities(dense | trained_on, "perplexity", "perplexity_training")
        rows.append([f"{size}, dense", MISSING, *cells])
        pruned = [row for row in read_rows("decoder", f"{model}/").values() if "sparsity" in row["configuration"]]
        for row in sorted(pruned, key=lambda row: (row["configuration"]["sparsity"], row["configuration"]["method"])):
            configuration, result = row["configuration"], row["result"]
            title = "**auto**" if configuration["method"] == "auto" else "heads and neurons with the smallest norms"
            removed = _perplexities(result, "removed_only", "")[0]
            cells = _perplexities(result, "compensated", "compensated_training")
            rows.append([f"{title}, {configuration['sparsity']:.0%} removed", removed, *cells])
    head = ["perplexity on held-out docstrings", "removed", "as it is", "its texts", "trained on", "its texts"]
    return table(head, rows) if rows else ""


def _perplexities(result: dict[str, Any], held_out: str, training: str) -> list[str]:
    """Returns the perplexity on held-out and on training texts, before and after more training."""
    names = (held_out, training, "recovered", "recovered_training")
    return [f"{result[name]:.1f}" if name in result else MISSING for name in names]
