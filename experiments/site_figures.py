"""Draws the figures of ``docs/choosing.md`` and ``docs/findings.md`` from the results; runs nothing.

    python experiments/site_figures.py
    python experiments/site_figures.py --check

Each figure contains the numbers that it shows, so ``--check`` finds one that is older than its results.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from html import unescape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.base_tables import TASKS, deployed_model, deployed_tasks
from lib.results_store import ROOT, read_result, read_rows
from lib.retrieval_tables import latency_of, retrieval_result
from lib.speed_tables import RUNTIMES, deployed_speed
from lib.study_tables import METHODS, STUDY_TASKS, score

FIGURES = ROOT / "docs" / "figures"
SHARES = ("1", "0.5", "0.25", "0.12", "0.06")
COLORS = ("#00796b", "#c2185b", "#f57c00", "#1565c0", "#6a1b9a", "#5d4037", "#455a64")
MARKERS = "os^DvPX"
SHOWN_RUNTIMES = ("pytorch-fp32", "onnx-fp32", "onnx-int8", "openvino-bf16", "openvino-int8")
SHOWN_METHODS = ("auto", "removal", "low_rank", "pgb-sequential", "first-layers", "torch-pruning")

Numbers = dict[str, Any]


def speed_numbers() -> Numbers:
    """SST-2 accuracy and speed at 8 × 128 of one-shot `auto`, by runtime: pairs in the order of ``SHARES``."""
    series = {}
    for name in SHOWN_RUNTIMES:
        results = {share: read_result("deployed", f"sst2-{share}-{name}") for share in SHARES}
        series[RUNTIMES[name]] = [
            [deployed_speed(share, name, "8x128"), result["metrics"]["accuracy"]]
            for share, result in results.items()
            if result is not None
        ]
    return series


def draw_speed(numbers: Numbers, axes: Axes) -> None:
    """A line per runtime, from the dense model to 6 % of its weights."""
    for (title, pairs), color, marker in zip(numbers.items(), COLORS, MARKERS, strict=False):
        speeds, scores = zip(*pairs, strict=True)
        axes.plot(speeds, scores, marker=marker, color=color, label=title, linewidth=1.5, markersize=5)
    axes.set_xscale("log", base=2)
    ticks = [1, 2, 4, 8]
    axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    axes.set_xlabel("speed, of dense PyTorch fp32 (8 × 128 tokens)")
    axes.set_ylabel("SST-2 accuracy")
    axes.set_title("MiniLM, one-shot auto:\n100, 50, 25, 12 and 6 % of the weights kept")
    axes.legend()


def method_numbers() -> Numbers:
    """Mean over five tasks of the one-shot score in percent of the dense one, by method, in the order of the shares."""
    series = {}
    for method in SHOWN_METHODS:
        means = []
        for share in SHARES[1:]:
            ratios = [score(f"{task}/{method}-{share}") / score(f"{task}/dense") for task in STUDY_TASKS]
            means.append(100 * float(np.mean(ratios)))
        series[METHODS[method].replace("**", "")] = means
    return series


def draw_methods(numbers: Numbers, axes: Axes) -> None:
    """A line per method, over the share of weights kept."""
    kept = [100 * float(share) for share in SHARES[1:]]
    for (title, means), color, marker in zip(numbers.items(), COLORS, MARKERS, strict=False):
        axes.plot(kept, means, marker=marker, color=color, label=title, linewidth=1.5, markersize=5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(kept, [f"{share:g} %" for share in kept])
    axes.invert_xaxis()
    axes.set_xlabel("encoder weights kept")
    axes.set_ylabel("score, % of dense")
    axes.set_title("Mean of five GLUE tasks,\nMiniLM, one-shot, no training")
    axes.legend(fontsize=9)


def compress_numbers() -> Numbers:
    """Speeds of dense INT8 and of what `compress` chose, relative to dense fp32 in the same runtime, by task."""
    series: Numbers = {}
    for row in read_rows("compress").values():
        candidates = {each["name"]: each for each in row["result"]["candidates"]}
        int8, chosen = candidates["dense int8"], candidates[row["result"]["chosen"]]
        key = f"{row['configuration']['task']}, {row['configuration']['runtime']}"
        series[key] = [int8["speedup"], chosen["speedup"], chosen["name"], row["result"]["verdict"]["status"]]
    return series


def draw_compress(numbers: Numbers, axes: Axes) -> None:
    """Two bars per search; the verdict is the color of the second."""
    titles = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
    positions = np.arange(len(numbers))
    int8, chosen, names, verdicts = zip(*numbers.values(), strict=True)
    axes.barh(positions - 0.2, int8, 0.38, color="#9e9e9e", label="dense INT8")
    for verdict, color in (("holds", COLORS[0]), ("not shown", "#80cbc4")):
        rows = [row for row, each in enumerate(verdicts) if each == verdict]
        axes.barh(positions[rows] + 0.2, [chosen[row] for row in rows], 0.38, color=color, label=f"chosen: {verdict}")
    for row, speed, name in zip(positions, chosen, names, strict=True):
        axes.text(speed + 0.1, row + 0.2, name.replace("auto ", "−").replace(" recovered", ""), va="center", fontsize=8)
    labels = [key.split(", ") for key in numbers]
    axes.set_yticks(positions, [f"{task}, {titles[runtime]}" for task, runtime in labels], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(chosen))
    axes.set_xlabel("speed, of dense fp32 in the same runtime")
    axes.set_title("Within one point (8 × 128 tokens)")
    axes.legend(fontsize=9, loc="upper right")


BASE_KINDS = {
    "auto, one-shot": ("dense", "auto-0.5", "auto-0.25", "auto-0.12", "auto-0.06"),
    "auto, recovered": ("auto-0.25-recovered", "auto-0.12-recovered", "auto-0.06-recovered"),
    "fewer layers, fine-tuned": ("layers-6", "layers-4", "layers-3"),
    "MiniLM-L6, fine-tuned": ("minilm",),
}


RETRIEVAL_KINDS = {
    "all-mpnet-base-v2, auto": ("mpnet/dense", "mpnet/auto-0.5", "mpnet/auto-0.25", "mpnet/auto-0.12"),
    "… refit": ("mpnet/dense", "mpnet/auto-0.5-refit", "mpnet/auto-0.25-refit", "mpnet/auto-0.12-refit"),
    "… recovered and refit": ("mpnet/dense", "mpnet/auto-0.25-recovered-refit", "mpnet/auto-0.12-recovered-refit"),
    "all-MiniLM-L6-v2": ("minilm/dense",),
    "static (model2vec)": ("mpnet/static",),
}
"""Rows of the retrieval study, by kind of embedder; recovery changes no speed."""


def base_numbers(target: str) -> Numbers:
    """Speed and quality of the base-size study's models in a runtime, by task and kind."""
    numbers = {}
    for task in deployed_tasks():
        kinds = {}
        for kind, rows in BASE_KINDS.items():
            models = [deployed_model(task, row, target) for row in rows]
            kinds[kind] = [[model.speed, model.score] for model in models if None not in (model.speed, model.score)]
        numbers[TASKS[task]] = kinds
    return numbers


def _draw_kinds(kinds: Numbers, axes: Axes) -> None:
    """Draws a line through the points of each kind that has any."""
    for (kind, pairs), color, marker in zip(kinds.items(), COLORS, MARKERS, strict=False):
        if pairs:
            axes.plot(*zip(*pairs, strict=True), marker=marker, color=color, label=kind, linewidth=1.5, markersize=5)


def draw_base(runtime: str, numbers: Numbers, axes: Axes) -> None:
    """A line per kind of model, on the hardest task."""
    task = TASKS["cola"]
    _draw_kinds(numbers[task], axes)
    axes.set_xscale("log", base=2)
    axes.set_xticks([4, 8, 16, 32], ["4x", "8x", "16x", "32x"])
    axes.set_xlabel("speed, of dense PyTorch fp32 (8 × 128 tokens)")
    axes.set_ylabel(task)
    axes.set_title(f"all-mpnet-base-v2 in {runtime}")
    axes.legend()


def retrieval_numbers(runtime: str) -> Numbers:
    """Texts per second and nDCG@10 in a runtime, by precision and kind of embedder."""
    numbers: Numbers = {}
    for precision in ("fp32", "int8"):
        timed = f"{runtime}-{precision}"
        kinds = {
            kind: [(latency_of("retrieval", timed, name), retrieval_result(name, precision, runtime)) for name in names]
            for kind, names in RETRIEVAL_KINDS.items()
        }
        numbers[precision] = {
            kind: [
                [latency["texts_per_second"], result["metrics"]["ndcg_at_10"]]
                for latency, result in models
                if latency is not None and result is not None
            ]
            for kind, models in kinds.items()
        }
    return numbers


def draw_retrieval(runtime: str, numbers: Numbers, axes: Axes) -> None:
    """A solid line in INT8 and a dashed one in fp32 per kind of embedder, from dense to the smallest share."""
    for precision, style, end in (("fp32", "--", ""), ("int8", "-", ", INT8")):
        for (kind, pairs), color, marker in zip(numbers[precision].items(), COLORS, MARKERS, strict=False):
            if pairs:
                axes.plot(
                    *zip(*pairs, strict=True), style, marker=marker, color=color, label=f"{kind}{end}", markersize=5
                )
    axes.set_xscale("log")
    axes.set_xlabel("texts per second (8 at a time, two cores)")
    axes.set_ylabel("Cranfield nDCG@10")
    axes.set_title(f"Embedders in {runtime}")
    axes.legend(fontsize=8)


def layer_numbers() -> Numbers:
    """Accuracy and speed of fewer layers, pruning and both, all in OpenVINO INT8."""
    series = {}
    for name in (
        "6-layers",
        "6-layers-auto-0.5",
        "6-layers-auto-0.25",
        "3-layers",
        "3-layers-auto-0.5",
        "3-layers-auto-0.25",
    ):
        result, speed = read_result("compound", name), read_result("compound", f"speed-{name}")
        if result is not None and speed is not None:
            series[name] = [speed["speedup"]["8x128"], result["int8"]["accuracy"]]
    return series


def draw_layers(numbers: Numbers, axes: Axes) -> None:
    """A line for all layers and one for half of them, each from unpruned to a quarter of the weights."""
    for layers, title, color in (
        ("6", "all 6 layers, nothing trained", COLORS[0]),
        ("3", "3 layers, trained for an epoch", COLORS[1]),
    ):
        speeds, scores = zip(*(pair for name, pair in numbers.items() if name.startswith(layers)), strict=True)
        axes.plot(speeds, scores, marker="o", color=color, label=title)
        for speed, accuracy, kept in zip(
            speeds, scores, ("as it is", "auto, 50 % kept", "auto, 25 % kept"), strict=True
        ):
            axes.annotate(kept, (speed, accuracy), textcoords="offset points", xytext=(5, 6), fontsize=9)
    axes.margins(0.2)
    axes.set_xlabel("speed, of dense PyTorch fp32 (8 × 128 tokens)")
    axes.set_ylabel("SST-2 accuracy")
    axes.set_title("MiniLM in OpenVINO INT8")
    axes.legend()


def file_numbers() -> Numbers:
    """Megabytes of BERT-base's file by what is stored: as written, and compressed by zstd."""
    result = read_result("sizes", "bert-base-unstructured-0.9")
    if result is None:
        return {}
    return {name: [row["file"]["raw"] / 1e6, row["file"]["zstd"] / 1e6] for name, row in result["rows"].items()}


def draw_files(numbers: Numbers, axes: Axes) -> None:
    """Two bars per kind of file."""
    titles = {
        "zeros": "90 % zeros (oBERT)",
        "matrices in INT8": "+ matrices in INT8",
        "embeddings in INT8": "+ embeddings in INT8",
    }
    positions = np.arange(len(numbers))
    raw, packed = zip(*numbers.values(), strict=True)
    axes.barh(positions - 0.2, raw, 0.38, color=COLORS[0], label="model.safetensors")
    axes.barh(positions + 0.2, packed, 0.38, color="#9e9e9e", label="the same, compressed by zstd")
    for position, megabytes in zip(positions, raw, strict=True):
        axes.text(megabytes + 5, position - 0.2, f"{megabytes:.0f} MB", va="center", fontsize=8)
    axes.set_yticks(positions, [titles.get(name, name) for name in numbers], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("megabytes")
    axes.set_title("BERT-base with 90 % zeros: smaller, not faster")
    axes.legend()


DRAWINGS: dict[str, tuple[Callable[[], Numbers], Callable[[Numbers, Axes], None]]] = {
    "choosing-speed": (speed_numbers, draw_speed),
    "choosing-methods": (method_numbers, draw_methods),
    "choosing-compress": (compress_numbers, draw_compress),
    "choosing-layers": (layer_numbers, draw_layers),
    "choosing-files": (file_numbers, draw_files),
    "retrieval-openvino": (partial(retrieval_numbers, "openvino"), partial(draw_retrieval, "OpenVINO")),
    "base-openvino": (partial(base_numbers, "openvino-int8"), partial(draw_base, "OpenVINO INT8")),
}
"""Numbers and drawing of each figure, by the name of its file."""


def to_text(numbers: Numbers) -> str:
    """The numbers of a figure, rounded, as its file contains them."""
    return json.dumps(
        json.loads(json.dumps(numbers), parse_float=lambda text: round(float(text), 3)), ensure_ascii=False
    )


def recorded(name: str) -> str:
    """The numbers in the file of a figure; nothing if there is no file."""
    path = FIGURES / f"{name}.svg"
    match = path.is_file() and re.search(
        r"<dc:description>(.*?)</dc:description>", path.read_text(encoding="utf-8"), re.DOTALL
    )
    return unescape(match[1]) if match else ""


def write(name: str) -> None:
    """Draws a figure."""
    make_numbers, draw = DRAWINGS[name]
    numbers = make_numbers()
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    draw(numbers, axes)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None, "Description": to_text(numbers)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a figure is out of date")
    check = parser.parse_args().check
    outdated = [name for name, (make_numbers, _) in DRAWINGS.items() if recorded(name) != to_text(make_numbers())]
    for name in [] if check else DRAWINGS:
        write(name)
    if check and outdated:
        sys.exit(f"{', '.join(outdated)}: out of date; run python experiments/site_figures.py.")


if __name__ == "__main__":
    main()
