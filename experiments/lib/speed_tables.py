"""The tables of ``docs/performance.md``: speed of pruned models, time and memory of pruning."""

from statistics import median
from typing import Any

from lib.results_store import read_result, read_rows
from lib.study_tables import METHODS, STUDY_TASKS
from lib.tables import FLOPS_KEPT, MISSING, WEIGHTS_KEPT, format_kept, format_metric, format_ratio, table

RUNTIMES = {
    "pytorch-fp32": "PyTorch fp32",
    "pytorch-bf16": "PyTorch bf16",
    "onnx-fp32": "ONNX Runtime fp32",
    "onnx-int8": "ONNX Runtime INT8",
    "openvino-fp32": "OpenVINO fp32",
    "openvino-bf16": "OpenVINO bf16",
    "openvino-int8": "OpenVINO INT8",
}
PLANS = {
    "auto-0.5": "`auto`, 50 % removed",
    "auto-0.75": "75 % removed",
    "auto-0.88": "88 % removed",
    "auto-0.97": "97 % removed",
    "timed-0.5": "by time, 50 % removed",
    "timed-0.75": "75 % removed",
    "timed-0.88": "88 % removed",
    "timed-0.97": "97 % removed",
    "aligned-0.5": "aligned groups, 50 % removed",
    "pgb-0.5": "free groups, 50 % removed",
    "first-3-auto-0.5": "3 layers of `auto`, 50 % removed",
}
DEPLOYED = {"sst2": "SST-2, accuracy", "stsb": "STS-B, Spearman"}


def by_plan(models: dict[str, Any]) -> dict[str, Any]:
    """Returns the measurements by plan; in INT8 the plans by time are those measured in INT8."""
    return {name.replace("int8-", "timed-"): measurement for name, measurement in models.items()}


def same_runtime(shape: str) -> str:
    """Tabulates speedups over the dense model in the same runtime and precision."""
    rows = []
    for name, title in RUNTIMES.items():
        result = read_result("speed", f"{name}-{shape}")
        if result is not None:
            models = by_plan(result["models"])
            cells = [format_ratio(models[plan]["speedup"]) if plan in models else MISSING for plan in PLANS]
            rows.append([title, f"{models['dense']['p50_ms']:.1f}", *cells])
    return table([f"{shape.replace('x', ' × ')} tokens", "dense, ms", *PLANS.values()], rows)


def to_reference() -> str:
    """Tabulates speedups over dense PyTorch fp32 at 8 x 128 tokens."""
    rows = []
    for name, title in RUNTIMES.items():
        result = read_result("speed", f"{name}-8x128")
        if result is not None:
            models = by_plan(result["models"])
            rows.append([title, *(format_ratio(models[plan]["speedup_to_reference"]) for plan in ("dense", *PLANS))])
    return table(["8 × 128, against dense PyTorch fp32", "dense", *PLANS.values()], rows)


def files() -> str:
    """Tabulates size of each exported file."""
    rows = []
    for name, title in RUNTIMES.items():
        result = read_result("speed", f"{name}-8x128")
        if result is not None and not name.startswith("pytorch"):
            models = by_plan(result["models"])
            rows.append([title, *(f"{models[plan]['file_bytes'] / 1e6:.0f}" for plan in ("dense", *PLANS))])
    return table(["file, MB", "dense", *PLANS.values()], rows)


def speed() -> str:
    """Makes all tables of ``experiments/speed.py``."""
    return "\n\n".join(
        [*(same_runtime(shape) for shape in ("8x128", "1x128", "1x16")), to_reference(), files(), quality()]
    )


def quality() -> str:
    """Tabulates accuracy of MiniLM with the plans before they were scaled up."""
    removed = ("0.5", "0.75", "0.88", "0.97")
    rows = []
    for name, title in (
        ("auto", "`auto`, weights are the budget"),
        ("timed", "`auto`, milliseconds in PyTorch are the budget"),
        ("int8", "`auto`, milliseconds in ONNX Runtime INT8 are the budget"),
    ):
        results = [read_result("speed", f"quality/{name}-{share}") for share in removed]
        rows.append([title, *map(format_metric, results)])
    return table(["SST-2, MiniLM with these plans, one-shot", *(f"{float(s):.0%} removed" for s in removed)], rows)


def grouped_layers() -> str:
    """Tabulates ways to compute query, key and value of aligned groups in PyTorch, against the dense ones."""
    shapes = ("8x128", "1x128", "1x16")
    keys = [(groups, shape) for groups in (2, 4) for shape in shapes]
    results = {key: read_result("grouped_layers", "{}-{}".format(*key)) for key in keys}
    times = {
        key: {way.replace("neighbours", "neighbors"): ms for way, ms in result["milliseconds"].items()}  # older rows
        for key, result in results.items()
        if result is not None
    }
    rows = [
        [way, *(format_ratio(times[key]["dense"] / times[key][way]) if key in times else MISSING for key in keys)]
        for way in next(iter(times.values()), {})
    ]
    return table(["against dense", *(f"{groups} groups, {shape.replace('x', ' × ')}" for groups, shape in keys)], rows)


def study_costs() -> str:
    """Tabulates size, speed at 8 x 128 tokens and pruning time of SST-2's model, for each row of the study.

    Seconds are the median over the tasks: the first row of a task collects the statistics for all others.
    """
    rows = []
    for share in ("0.5", "0.25", "0.12", "0.06"):
        for method, title in METHODS.items():
            result = read_result("study", f"sst2-0/{method}-{share}")
            if result is None:
                continue
            plan = "pgb" if method == "pgb-sequential" else method  # compensation changes no shape
            speeds = [read_result("study_speed", f"{plan}-{share}-{runtime}") for runtime in ("pytorch", "onnx")]
            by_task = [read_result("study", f"{task}/{method}-{share}") for task in STUDY_TASKS]
            rows.append(
                [
                    f"{100 * (1 - float(share)):.0f} %",
                    title,
                    format_kept(result["kept_share"], 1),
                    format_kept(result["flops_share"], 1),
                    *(MISSING if speed is None else format_ratio(speed["speedup"]) for speed in speeds),
                    f"{median(other['pruning_seconds'] for other in by_task if other is not None):.0f}",
                ]
            )
    header = ["asked to remove", "SST-2, MiniLM, one-shot", WEIGHTS_KEPT, FLOPS_KEPT, "PyTorch", "ONNX Runtime"]
    return table([*header, "seconds to prune"], rows)


def deployed_speed(share: str, runtime: str, shape: str) -> float | None:
    """Returns the speedup over dense PyTorch fp32; None if it was not timed."""
    result = read_result("deployed", f"speed-sst2-{share}-{runtime}") or {}
    speedup: float | None = result.get("speedup", {}).get(shape)
    return speedup


def deployed() -> str:
    """Tabulates quality and speed of MiniLM where it is deployed."""
    rows = []
    for share in ("1", "0.5", "0.25", "0.12", "0.06"):
        for name, runtime in RUNTIMES.items():
            results = [read_result("deployed", f"{task}-{share}-{name}") for task in DEPLOYED]
            metrics = list(map(format_metric, results))
            size = MISSING if results[0] is None else f"{results[0]['file_bytes'] / 1e6:.0f}"
            speeds = []
            for shape in ("8x128", "1x128"):
                dense, this = (deployed_speed(kept, name, shape) for kept in ("1", share))
                speeds.append(MISSING if this is None else format_ratio(this))
                speeds.append(MISSING if this is None or dense is None else format_ratio(this / dense))
            rows.append([format_kept(float(share)), runtime, *metrics, size, *speeds])
    shapes = [f"{shape}{of}" for shape in ("8 × 128", "1 × 128") for of in ("", ", of dense there")]
    return table([WEIGHTS_KEPT, "runtime", *DEPLOYED.values(), "file, MB", *shapes], rows)


def merged_products() -> str:
    """Tabulates time saved by one product for query, key and value."""
    rows = []
    models = {"dense": "dense", "aligned-0.5": "aligned groups, 50 % removed"}
    models |= {
        f"timed-{removed}": f"`auto` by time, {100 * float(removed):.0f} % removed"
        for removed in ("0.5", "0.88", "0.97")
    }
    for runtime, title in (("onnx", "ONNX Runtime"), ("openvino", "OpenVINO")):
        for model, name in models.items():
            result = read_result("merged_products", f"{runtime}-{model}")
            if result is not None:
                times = result["milliseconds"].values()
                cells = [f"{1 - ms['merged'] / ms['separate']:+.1%}" for ms in times]
                rows.append([title, name, *cells])
    return table(["time saved by merging", "model", "8 × 128", "1 × 128", "1 × 16"], rows)


def skip_norm() -> str:
    """Tabulates additions and norms, fused and apart."""
    result = read_result("skip_norm", "8x128x768")
    times = {} if result is None else result["milliseconds"]
    titles = {"Add": "fused", "Sum": "apart"}
    version = "" if result is None else f" {result['onnxruntime']}"
    return table([f"ONNX Runtime{version}", "ms"], [[titles[name], f"{value:.1f}"] for name, value in times.items()])


def compound() -> str:
    """Tabulates fewer layers, pruning and INT8 together."""
    rows = []
    for name, row in read_rows("compound").items():
        if name.startswith("speed-"):
            continue
        configuration, result = row["configuration"], row["result"]
        layers, method = configuration["layers"], configuration["method"]
        speeds = (read_result("compound", f"speed-{name}") or {}).get("speedup", {})
        steps = ["all layers" if layers == 6 else f"{layers} of 6 layers, trained"]
        if method:
            recovered = ", recovered" if configuration["recovery"] else ""
            steps.append(f"`{method}`, {100 * (1 - configuration['share']):.0f} % removed{recovered}")
        cells = [" + ".join([*steps, "INT8"]), format_kept(result["kept_share"])]
        cells += [f"{result[metrics]['accuracy']:.1f}" for metrics in ("metrics", "int8")]
        cells += [f"{result['file_bytes'] / 1e6:.0f}"]
        cells += [format_ratio(speeds[shape]) if shape in speeds else MISSING for shape in ("8x128", "1x128")]
        rows.append((-result["kept_share"], cells))
    header = ["SST-2, MiniLM, OpenVINO INT8", WEIGHTS_KEPT, "before INT8", "accuracy", "file, MB", "8 × 128"]
    return table([*header, "1 × 128"], [cells for _, cells in sorted(rows)])


PERFORMANCE = {
    "minilm-sst2": "MiniLM-L6, 1024 SST-2 sentences, `pgb`",
    "minilm-sst2-auto": "MiniLM-L6, 1024 SST-2 sentences, `auto`",
    "bert-base-sort": "BERT-base size, 512 × 128 tokens, `pgb`",
    "bert-base-assign": "BERT-base size, 512 × 128 tokens, `pgb --grouping assign`",
    "bert-base-auto": "BERT-base size, 512 × 128 tokens, `auto`",
    "bert-base-auto-192-before": "BERT-base size, 192 × 128 tokens, `auto`, before the changes below",
    "bert-base-auto-192": "BERT-base size, 192 × 128 tokens, `auto`, after them",
    "bert-large-auto-64": "BERT-large size, 64 × 128 tokens, `auto`",
}


def performance() -> str:
    """Tabulates time and memory of pruning by step, then how they grow with layers, width and tokens."""
    rows = []
    for name, title in PERFORMANCE.items():
        result = read_result("performance", name)
        if result is not None:
            seconds = result["report"]["seconds"]
            planning = sum(seconds.get(step, 0) for step in ("importance", "plan", "curves", "allocation"))
            steps = [f"{value:.1f}" for value in (seconds["statistics"], planning, seconds["compensation"])]
            rows.append([title, *steps, f"**{result['total_seconds']:.0f}**", f"{result['peak_gib']:.1f}"])
    header = ["seconds, 2 cores", "statistics", "planning", "compensation", "total", "peak GiB"]
    parts = [table(header, rows)]
    scaling = []
    for row in read_rows("performance", "scaling-").values():
        sizes = [row["configuration"][name] for name in ("layers", "width", "tokens")]
        scaling.append([*sizes, f"{row['result']['total_seconds']:.0f}", f"{row['result']['peak_gib']:.1f}"])
    if scaling:
        texts = [[str(cell) for cell in cells] for cells in sorted(scaling)]
        parts.append(table(["`auto`: layers", "width", "tokens", "seconds", "peak GiB"], texts))
    return "\n\n".join(parts)
