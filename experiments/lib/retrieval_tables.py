"""The table of the retrieval study in ``docs/retrieval.md``."""

from typing import Any

import numpy as np

from bertsurgeon.tasks.retrieval import paired_difference
from lib.results_store import read_result
from lib.tables import MISSING, table

MODELS = {
    "mpnet/dense": "all-mpnet-base-v2, dense",
    **{
        f"mpnet/auto-{share}{end}": f"… `auto`, {percent} % kept{title}"
        for share, percent in (("0.5", 50), ("0.25", 25), ("0.12", 12))
        for end, title in (("", ""), ("-recovered", ", recovered"))
    },
    **{
        f"mpnet/drop-{share}-recovered": f"… first {layers} layers of 12, recovered"
        for share, layers in (("0.5", 6), ("0.25", 3), ("0.12", 1))
    },
    "minilm/dense": "all-MiniLM-L6-v2, dense",
    "minilm/auto-0.5": "… `auto`, 50 % kept",
    "minilm/auto-0.25": "… `auto`, 25 % kept",
    "mpnet/static": "static model of the same teacher (model2vec)",
}
"""Rows of the study and their titles."""

RUNTIME = "openvino"


def retrieval_study() -> str:
    """A row per model: quality in fp32 with an interval against MiniLM, in INT8, and speed."""
    lines = []
    for name, title in MODELS.items():
        result = retrieval_result(name, "fp32")
        if result is None:
            continue
        metrics, int8 = result["metrics"], retrieval_result(name, "int8")
        cells = [f"{metrics[key]:.1f}" for key in ("ndcg_at_10", "recall_at_100", "mrr_at_10", "stsb_test")]
        weights = f"{result['encoder_weights'] / 1e6:.1f} M" if "encoder_weights" in result else MISSING
        in_int8 = MISSING if int8 is None else f"{int8['metrics']['ndcg_at_10']:.1f}"
        lines.append([title, weights, *cells, _against(result, "minilm/dense"), in_int8, _speed(name)])
    header = ["OpenVINO", "encoder weights", "nDCG@10", "Recall@100", "MRR@10", "STS-B test"]
    return table([*header, "nDCG@10 beyond MiniLM's", "nDCG@10 in INT8", "texts per second in fp32"], lines)


COMPARISONS = (
    ("all-MiniLM-L6-v2 in INT8, beside itself", "minilm/dense", "int8", "minilm/dense"),
    ("all-mpnet-base-v2 in INT8, beside itself", "mpnet/dense", "int8", "mpnet/dense"),
    ("all-mpnet-base-v2, beside all-MiniLM-L6-v2", "mpnet/dense", "fp32", "minilm/dense"),
    ("half of all-MiniLM-L6-v2, one-shot, beside all of it", "minilm/auto-0.5", "fp32", "minilm/dense"),
    ("half of all-mpnet-base-v2, one-shot, beside all of it", "mpnet/auto-0.5", "fp32", "mpnet/dense"),
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


def retrieval_result(name: str, precision: str) -> dict[str, Any] | None:
    """Returns what was measured of a model; the static one is in fp32 alone."""
    if name.endswith("static"):
        return read_result("retrieval", f"{name}/numpy-fp32") if precision == "fp32" else None
    return read_result("retrieval", f"{name}/{RUNTIME}-{precision}")


def _against(result: dict[str, Any], other: str) -> str:
    """Returns the difference of nDCG@10 from another model's over the same queries, with its 95 % interval."""
    reference = retrieval_result(other, "fp32")
    if reference is None or reference is result:
        return MISSING
    first, second = (np.array(one["by_query"]["ndcg_at_10"]) for one in (reference, result))
    if np.array_equal(first, second):
        return MISSING
    difference = paired_difference(first, second)
    return f"{difference.difference:+.1f} ({difference.low:+.1f} to {difference.high:+.1f})"


def _speed(name: str) -> str:
    """Returns texts per second of a model in fp32; recovery does not change it."""
    timed = (read_result("retrieval", f"speed/{RUNTIME}-fp32") or {}).get("models", {})
    latency = timed.get(name) or timed.get(name.removesuffix("-recovered"))
    return MISSING if latency is None else f"{latency['texts_per_second']:.0f}"
