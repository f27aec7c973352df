"""The tables of speed in ``docs/performance.md``, from the JSON of speed, grouped_layers, study_speed and deployed."""

import json
from statistics import median
from typing import Any

from common import RESULTS
from study_tables import METHODS, STUDIED
from tables import read, table

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
    "auto-0.5": "`auto` 50 %",
    "auto-0.75": "75 %",
    "auto-0.88": "88 %",
    "auto-0.97": "97 %",
    "timed-0.5": "by time, 50 %",
    "timed-0.75": "75 %",
    "timed-0.88": "88 %",
    "timed-0.97": "97 %",
    "aligned-0.5": "aligned groups 50 %",
    "pgb-0.5": "free groups 50 %",
    "first-3-auto-0.5": "3 layers of `auto` 50 %",
}
DEPLOYED = {"sst2": "SST-2, accuracy", "stsb": "STS-B, Spearman"}


def times(value: float) -> str:
    """A ratio with as many digits as it can carry."""
    return f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def by_plan(models: dict[str, Any]) -> dict[str, Any]:
    """In INT8 the plans by time are those whose milliseconds were measured in INT8."""
    return {name.replace("int8-", "timed-"): found for name, found in models.items()}


def same_runtime(shape: str) -> str:
    """Against the dense model in the same runtime and precision."""
    rows = []
    for name, title in RUNTIMES.items():
        result = read(f"speed/{name}-{shape}")
        if result is not None:
            models = by_plan(result["models"])
            cells = [times(models[plan]["speedup"]) if plan in models else "–" for plan in PLANS]
            rows.append([title, f"{models['dense']['p50_ms']:.1f}", *cells])
    return table([f"{shape.replace('x', ' × ')} tokens", "dense, ms", *PLANS.values()], rows)


def to_reference() -> str:
    """Against dense PyTorch fp32, 8 x 128 tokens."""
    rows = []
    for name, title in RUNTIMES.items():
        result = read(f"speed/{name}-8x128")
        if result is not None:
            models = by_plan(result["models"])
            rows.append([title, *(times(models[plan]["speedup_to_reference"]) for plan in ("dense", *PLANS))])
    return table(["8 × 128, against dense PyTorch fp32", "dense", *PLANS.values()], rows)


def files() -> str:
    """Bytes of each exported file, beside what its weights alone take."""
    rows = []
    for name, title in RUNTIMES.items():
        result = read(f"speed/{name}-8x128")
        if result is not None and not name.startswith("pytorch"):
            found = by_plan(result["models"])
            rows.append([title, *(f"{found[plan]['file_bytes'] / 1e6:.0f}" for plan in ("dense", *PLANS))])
    return table(["file, MB", "dense", *PLANS.values()], rows)


def speed() -> str:
    """All of ``experiments/speed.py``."""
    return "\n\n".join(
        [*(same_runtime(shape) for shape in ("8x128", "1x128", "1x16")), to_reference(), files(), quality()]
    )


def quality() -> str:
    """What MiniLM keeps with the plans before they were doubled."""
    removed = ("0.5", "0.75", "0.88", "0.97")
    rows = []
    for name, title in (
        ("auto", "`auto`, weights are the budget"),
        ("timed", "`auto`, milliseconds in PyTorch are the budget"),
        ("int8", "`auto`, milliseconds in ONNX Runtime INT8 are the budget"),
    ):
        results = [read(f"speed-quality/{name}-{share}") for share in removed]
        rows.append([title, *("–" if r is None else f"{r['metrics']['accuracy']:.1f}" for r in results)])
    return table(["SST-2, MiniLM with these plans, one-shot", *(f"{float(s):.0%} removed" for s in removed)], rows)


def grouped_layers() -> str:
    """Ways to compute query, key and value of aligned groups in PyTorch, against the dense ones."""
    shapes = ("8x128", "1x128", "1x16")
    found = {(g, s): read(f"grouped-layers/{g}-{s}") for g in (2, 4) for s in shapes}
    results = {key: result["milliseconds"] for key, result in found.items() if result is not None}
    ways = next(iter(results.values()), {})
    rows = [
        [way, *(times(results[key]["dense"] / results[key][way]) if key in results else "–" for key in found)]
        for way in ways
    ]
    return table(["against dense", *(f"{g} groups, {s.replace('x', ' × ')}" for g, s in found)], rows)


def study_costs() -> str:
    """What each row of the study keeps of SST-2's model, how fast that is at 8 x 128 tokens, and how long it takes.

    Seconds are the median over the tasks: a task's first row gathers the statistics for all others.
    """
    rows = []
    for share in ("0.5", "0.25", "0.12", "0.06"):
        for method, title in METHODS.items():
            found = read(f"study/sst2-0/{method}-{share}")
            if found is None:
                continue
            plan = "pgb" if method == "pgb-sequential" else method  # compensation changes no shape
            speeds = [read(f"study-speed/{plan}-{share}-{runtime}") for runtime in ("pytorch", "onnx")]
            taken = [read(f"study/{place}/{method}-{share}") for place in STUDIED]
            rows.append(
                [
                    f"{float(share):.0%}",
                    title,
                    f"{100 * found['kept_share']:.1f} %",
                    f"{100 * found['flops_share']:.1f} %",
                    *("–" if speed is None else times(speed["speedup"]) for speed in speeds),
                    f"{median(one['pruning_seconds'] for one in taken if one is not None):.0f}",
                ]
            )
    header = ["asked for", "SST-2, MiniLM, one-shot", "encoder weights", "FLOPs", "PyTorch", "ONNX Runtime"]
    return table([*header, "seconds to prune"], rows)


def deployed_speed(share: str, runtime: str, shape: str) -> float | None:
    """How much faster than dense PyTorch fp32; None if that was not timed."""
    found: float | None = (read(f"deployed/speed-sst2-{share}-{runtime}") or {}).get("speedup", {}).get(shape)
    return found


def deployed() -> str:
    """Quality and speed of MiniLM where it is deployed."""
    rows = []
    for share in ("1", "0.5", "0.25", "0.12", "0.06"):
        for name, runtime in RUNTIMES.items():
            found = [read(f"deployed/{task}-{share}-{name}") for task in DEPLOYED]
            metrics = ["–" if one is None else f"{next(iter(one['metrics'].values())):.1f}" for one in found]
            size = "–" if found[0] is None else f"{found[0]['file_bytes'] / 1e6:.0f}"
            speeds = []
            for shape in ("8x128", "1x128"):
                dense, this = (deployed_speed(kept, name, shape) for kept in ("1", share))
                speeds.append("–" if this is None else times(this))
                speeds.append("–" if this is None or dense is None else times(this / dense))
            rows.append([f"{float(share):.0%}", runtime, *metrics, size, *speeds])
    shapes = [f"{shape}{of}" for shape in ("8 × 128", "1 × 128") for of in ("", ", of dense there")]
    return table(["kept", "runtime", *DEPLOYED.values(), "file, MB", *shapes], rows)


def merged_products() -> str:
    """Time saved by one product for query, key and value."""
    rows = []
    models = {"dense": "dense", "aligned-0.5": "aligned groups 50 %"}
    models |= {f"timed-{removed}": f"`auto` {float(removed):.0%}, by time" for removed in ("0.5", "0.88", "0.97")}
    for runtime, title in (("onnx", "ONNX Runtime"), ("openvino", "OpenVINO")):
        for model, name in models.items():
            result = read(f"merged-products/{runtime}-{model}")
            if result is not None:
                cells = [f"{1 - found['merged'] / found['separate']:+.1%}" for found in result["milliseconds"].values()]
                rows.append([title, name, *cells])
    return table(["time saved by merging", "model", "8 × 128", "1 × 128", "1 × 16"], rows)


def skip_norm() -> str:
    """Additions and norms, fused and apart."""
    result = read("skip-norm/8x128x768")
    found = {} if result is None else result["milliseconds"]
    titles = {"Add": "fused", "Sum": "apart"}
    version = "" if result is None else f" {result['onnxruntime']}"
    return table([f"ONNX Runtime{version}", "ms"], [[titles[name], f"{value:.1f}"] for name, value in found.items()])


def compound() -> str:
    """Fewer layers, pruning and INT8 together."""
    rows = []
    for path in (RESULTS / "compound").glob("[0-9]*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        recipe = result["recipe"]
        speeds = (read(f"compound/speed-{path.stem}") or {}).get("speedup", {})
        steps = ["all layers" if recipe["layers"] == 6 else f"{recipe['layers']} of 6 layers, trained"]
        if recipe["method"]:
            steps.append(f"`{recipe['method']}` {recipe['share']:.0%}" + (", recovered" if result["recovery"] else ""))
        row = [" + ".join([*steps, "INT8"]), f"{100 * result['kept_share']:.0f} %"]
        row += [f"{result[name]['accuracy']:.1f}" for name in ("metrics", "int8")]
        row += [f"{result['file_bytes'] / 1e6:.0f}"]
        row += [times(speeds[shape]) if shape in speeds else "–" for shape in ("8x128", "1x128")]
        rows.append((-result["kept_share"], row))
    header = ["SST-2, MiniLM, OpenVINO INT8", "encoder weights", "before INT8", "accuracy", "file, MB", "8 × 128"]
    return table([*header, "1 × 128"], [row for _, row in sorted(rows)])
