"""The tables of embedders and rerankers in ``docs/retrieval.md``."""

from typing import Any

import numpy as np

from bertsurgeon.tasks.retrieval import paired_difference
from lib.results_store import read_result
from lib.tables import MISSING, table

ENDS = {
    "": "",
    "-refit": ", refit",
    "-recovered": ", recovered",
    "-recovered-refit": ", recovered and refit",
}
MODELS = {
    "mpnet/dense": "all-mpnet-base-v2, dense",
    **{
        f"mpnet/auto-{share}{end}": f"… `auto`, {percent} % kept{title}"
        for share, percent in (("0.5", 50), ("0.25", 25), ("0.12", 12))
        for end, title in ENDS.items()
    },
    **{
        f"mpnet/drop-{share}-recovered": f"… first {layers} layers of 12, recovered"
        for share, layers in (("0.5", 6), ("0.25", 3), ("0.12", 1))
    },
    "minilm/dense": "all-MiniLM-L6-v2, dense",
    **{
        f"minilm/auto-{share}{end}": f"… `auto`, {percent} % kept{title}"
        for share, percent in (("0.5", 50), ("0.25", 25))
        for end, title in ENDS.items()
    },
    "mpnet/static": "static model of the same teacher (model2vec)",
}
"""Rows of the study and their titles."""

RUNTIME = "openvino"


def retrieval_study() -> str:
    """A row per model: quality in fp32 with an interval against MiniLM, quality in INT8, and speeds."""
    small = retrieval_result("minilm/dense", "fp32")
    lines = []
    for name, title in MODELS.items():
        result = retrieval_result(name, "fp32")
        if result is None:
            continue
        metrics, int8 = result["metrics"], retrieval_result(name, "int8")
        cells = [f"{metrics[key]:.1f}" for key in ("ndcg_at_10", "recall_at_100", "mrr_at_10", "stsb_test")]
        weights = f"{result['encoder_weights'] / 1e6:.1f} M" if "encoder_weights" in result else MISSING
        in_int8 = MISSING if int8 is None else f"{int8['metrics']['ndcg_at_10']:.1f}"
        speeds = [_per_second("retrieval", precision, name, "texts") for precision in ("fp32", "int8")]
        lines.append([title, weights, *cells, _difference(result, small), in_int8, *speeds])
    header = ["OpenVINO", "encoder weights", "nDCG@10", "Recall@100", "MRR@10", "STS-B test"]
    return table([*header, "nDCG@10 beyond MiniLM's", "nDCG@10 in INT8", "texts per second in fp32", "in INT8"], lines)


COMPARISONS = (
    ("all-MiniLM-L6-v2 in INT8, beside itself", "minilm/dense", "int8", "minilm/dense"),
    ("all-mpnet-base-v2 in INT8, beside itself", "mpnet/dense", "int8", "mpnet/dense"),
    ("all-mpnet-base-v2, beside all-MiniLM-L6-v2", "mpnet/dense", "fp32", "minilm/dense"),
    ("half of all-MiniLM-L6-v2, one-shot, beside all of it", "minilm/auto-0.5", "fp32", "minilm/dense"),
    ("half of all-mpnet-base-v2, one-shot, beside all of it", "mpnet/auto-0.5", "fp32", "mpnet/dense"),
    ("… refit, beside all of it", "mpnet/auto-0.5-refit", "fp32", "mpnet/dense"),
    ("a quarter, refit, beside the same without", "mpnet/auto-0.25-refit", "fp32", "mpnet/auto-0.25"),
    ("static model, beside all-MiniLM-L6-v2", "mpnet/static", "fp32", "minilm/dense"),
)
"""Titles, models and precisions, and the models in fp32 that they are compared with."""


def retrieval_power() -> str:
    """A row per pair of models: the difference of nDCG@10, and how many queries show what."""
    lines = []
    for title, name, precision, other in COMPARISONS:
        result, reference = retrieval_result(name, precision), retrieval_result(other, "fp32")
        if result is None or reference is None:
            continue
        first, second = (np.array(one["by_query"]["ndcg_at_10"]) for one in (reference, result))
        paired = paired_difference(first, second)
        assert paired.detectable is not None
        lines.append(
            [
                title,
                f"{paired.model:.1f}",
                f"{paired.difference:+.1f} ({paired.low:+.1f} to {paired.high:+.1f})",
                f"{paired.p:.2g}",
                f"{100 * (second - first).std(ddof=1):.1f}",
                f"{paired.detectable:.1f}",
                f"{paired.queries * paired.detectable**2:,.0f}",
            ]
        )
    header = ["models", "nDCG@10", "difference, 95 % interval", "p", "s", "225 queries show", "queries for one point"]
    return table(header, lines)


def retrieval_result(name: str, precision: str, runtime: str = RUNTIME) -> dict[str, Any] | None:
    """Returns what was measured of a model; the static one is in fp32 alone."""
    if name.endswith("static"):
        return read_result("retrieval", f"{name}/numpy-fp32") if precision == "fp32" else None
    return read_result("retrieval", f"{name}/{runtime}-{precision}")


RERANKERS = {
    "dense": "cross-encoder, dense",
    **{
        f"auto-{share}{end}": f"… `auto`, {percent} % kept{title}"
        for share, percent in (("0.5", 50), ("0.25", 25), ("0.12", 12))
        for end, title in (("", ""), ("-recovered", ", recovered"))
    },
}
"""Rows of the rerankers' study and their titles."""


def rerankers() -> str:
    """A row per cross-encoder: quality and speed in fp32 and INT8, with intervals against the dense one in fp32."""
    dense = read_result("rerankers", f"dense/{RUNTIME}-fp32")
    if dense is None:
        return ""
    first = [f"{dense['first_stage'][key]:.1f}" for key in ("ndcg_at_10", "mrr_at_10")]
    lines = [["BM25 alone, the first stage", MISSING, MISSING, MISSING, *first, *[MISSING] * 5]]
    for name, title in RERANKERS.items():
        fp32, int8 = (read_result("rerankers", f"{name}/{RUNTIME}-{precision}") for precision in ("fp32", "int8"))
        if fp32 is None:
            continue
        pairs = [MISSING if one is None else f"{one['metrics']['spearman']:.1f}" for one in (fp32, int8)]
        metrics = [f"{fp32['metrics'][key]:.1f}" for key in ("ndcg_at_10", "mrr_at_10")]
        quantized = MISSING if int8 is None else f"{int8['metrics']['ndcg_at_10']:.1f}"
        differences = [_difference(one, dense) for one in (fp32, int8)]
        speeds = [_per_second("rerankers", precision, name, "pairs") for precision in ("fp32", "int8")]
        weights = f"{fp32['encoder_weights'] / 1e6:.1f} M"
        lines.append([title, weights, *pairs, *metrics, differences[0], quantized, differences[1], *speeds])
    header = ["OpenVINO, 20 candidates", "encoder weights", "held-out pairs, Spearman", "in INT8", "nDCG@10", "MRR@10"]
    header = [*header, "beyond dense fp32"]
    return table([*header, "nDCG@10 in INT8", "beyond dense fp32", "pairs per second in fp32", "in INT8"], lines)


def _difference(result: dict[str, Any] | None, reference: dict[str, Any] | None) -> str:
    """Returns the difference of nDCG@10 over the same queries, with its 95 % interval."""
    if result is None or reference is None:
        return MISSING
    first, second = (np.array(one["by_query"]["ndcg_at_10"]) for one in (reference, result))
    if np.array_equal(first, second):
        return MISSING
    difference = paired_difference(first, second)
    return f"{difference.difference:+.1f} ({difference.low:+.1f} to {difference.high:+.1f})"


def _per_second(experiment: str, precision: str, name: str, unit: str) -> str:
    """Returns texts or pairs per second of a model."""
    latency = latency_of(experiment, f"{RUNTIME}-{precision}", name)
    return MISSING if latency is None else f"{latency[f'{unit}_per_second']:.0f}"


def latency_of(experiment: str, runtime: str, name: str) -> dict[str, float] | None:
    """Returns what was timed of a model, or of the same without recovery or with a refit, which change no speed."""
    timed = (read_result(experiment, f"speed/{runtime}") or {}).get("models", {})
    plain = name.removesuffix("-refit").removesuffix("-recovered")
    latency: dict[str, float] | None = next(
        (timed[one] for one in (name, plain, f"{plain}-refit") if one in timed), None
    )
    return latency
