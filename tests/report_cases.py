"""Reports of ``compress`` as plain data, for the tests of pages and model cards: several tasks, and gaps."""

import random
from typing import Any

HOSTILE = '</script></svg><img src=x onerror=alert(1)> $x^2$ "quoted" & <b>'
"""A text of a user that would break a page which does not escape it."""


def make_candidate(name: str, **changes: Any) -> dict[str, Any]:
    """A measured candidate."""
    candidate = {
        "name": name,
        "kind": "pruned",
        "precision": "int8",
        "removed": 0.5,
        "recovered": False,
        "metrics": {"accuracy": 91.2},
        "agreement": 97.4,
        "quality": {
            "loss": 0.34,
            "limit": 0.92,
            "verdict": "holds",
            "texts": 872,
            "texts_needed": None,
            "method": "Tango score interval",
        },
        "encoder_weights": 5310000,
        "parameters": 17190000,
        "flops": 1.37e9,
        "file_bytes": 17400000,
        "latency": {"p50_ms": 21.4, "p95_ms": 22.3, "p99_ms": 24.9, "throughput": 374.0},
        "speedup": 4.61,
        "speedup_int8": 1.77,
        "seconds": 43.2,
        "error": None,
    }
    return candidate | changes


def make_report(classes: int = 2, regression: bool = False, labeled: bool = True) -> dict[str, Any]:
    """A report of a classification, a regression, or unlabeled texts; it has a failed candidate.

    Args:
        classes: Number of classes.
        regression: The task is a regression.
        labeled: There is a task.
    """
    choose = random.Random(0)
    names = (
        ["negative", "positive"]
        if classes == 2
        else [f"intent_{index:02d}_of_the_customer" for index in range(classes)]
    )
    names[0] = "negative" if classes == 2 else f"{HOSTILE[:24]}"
    metric = "spearman" if regression else "accuracy"
    dense_value = 88.6 if regression else 91.51

    def scored(value: float) -> dict[str, float]:
        return {metric: value} if labeled else {}

    def quality(loss: float, limit: float, verdict: str, **more: Any) -> dict[str, Any]:
        return make_candidate("")["quality"] | {"loss": loss, "limit": limit, "verdict": verdict} | more

    dense = make_candidate(
        "dense",
        kind="dense",
        precision="fp32",
        removed=None,
        metrics=scored(dense_value),
        agreement=None,
        quality=None,
        encoder_weights=10616832,
        parameters=22700000,
        flops=2.82e9,
        file_bytes=90900000,
        speedup=1.0,
        speedup_int8=0.38,
        seconds=18.1,
        latency={"p50_ms": 98.7, "p95_ms": 101.2, "p99_ms": 108.0, "throughput": 81.1},
    )
    int8 = make_candidate(
        "dense int8",
        kind="dense",
        removed=None,
        metrics=scored(dense_value - 0.11),
        agreement=98.9,
        quality=quality(0.11, 0.55, "holds"),
        encoder_weights=10616832,
        parameters=22700000,
        flops=2.82e9,
        file_bytes=23400000,
        speedup=2.61,
        speedup_int8=1.0,
        seconds=31.0,
        latency={"p50_ms": 37.9, "p95_ms": 39.0, "p99_ms": 42.0, "throughput": 211.0},
    )
    candidates = [
        dense,
        int8,
        make_candidate(
            "auto 30 % int8",
            removed=0.3,
            metrics=scored(dense_value - 0.17),
            quality=quality(0.17, 0.68, "holds"),
            speedup=3.52,
            speedup_int8=1.35,
            latency={"p50_ms": 28.0},
            file_bytes=20100000,
            agreement=98.4,
        ),
        make_candidate("auto 50 % int8", metrics=scored(dense_value - 0.34)),
        make_candidate(
            "auto 60 % int8",
            removed=0.6,
            metrics=scored(dense_value - 0.8),
            quality=quality(0.8, 1.53, "not shown", texts_needed=2140),
            speedup=5.4,
            speedup_int8=2.07,
            latency={"p50_ms": 18.3},
            file_bytes=16100000,
            agreement=95.9,
        ),
        make_candidate(
            "auto 60 % recovered int8",
            removed=0.6,
            recovered=True,
            metrics=scored(dense_value - 0.57),
            quality=quality(0.57, 1.21, "not shown", texts_needed=1390),
            speedup=5.4,
            speedup_int8=2.07,
            latency={"p50_ms": 18.3},
            file_bytes=16100000,
            agreement=96.8,
            seconds=151.0,
        ),
        make_candidate(
            "auto 75 % int8",
            removed=0.75,
            metrics=scored(dense_value - 5.2),
            quality=quality(5.2, 6.6, "fails"),
            speedup=7.1,
            speedup_int8=2.72,
            latency={"p50_ms": 13.9},
            file_bytes=14800000,
            agreement=90.1,
        ),
        dict.fromkeys(make_candidate(""))
        | {"name": "auto 40 % bf16", "kind": "pruned", "precision": "bf16", "error": f"The export failed: {HOSTILE}"},
    ]
    counts = [[choose.choice((0, 0, 0, 0, 0, 0, 1, 2)) for _ in names] for _ in names]
    for index in range(len(names)):
        counts[index][index] = 40 + index
    if classes == 2:
        counts = [[419, 6], [10, 437]]
    plan = [
        {
            "layer": layer,
            "heads": [choose.randint(5, 12), 12],
            "neurons": [choose.randint(300, 1400), 1536],
            "matrices": {
                "query": f"rank {choose.randint(60, 190)}",
                "key": "dense",
                "value": "dense",
                "attention_output": "dense",
                "intermediate": "dense",
                "output": "–" if layer == 4 else "rank 96",
            },
            "kept": {"attention": choose.uniform(0.2, 0.8), "feed_forward": choose.uniform(0.2, 0.9)},
        }
        for layer in range(6)
    ]
    answers = {
        "agreement": 98.2,
        "per_class": None
        if regression or not labeled
        else [
            {
                "label": name,
                "texts": 428 if classes == 2 else 40,
                "dense_f1": 91.4,
                "chosen_f1": 91.4 + choose.uniform(-3, 1),
                "dense_recall": 90.7,
                "chosen_recall": 90.2,
            }
            for name in names
        ],
        "confusion": None if regression else {"labels": names, "counts": counts},
        "scatter": {
            "dense": (dense_scores := [choose.uniform(0, 5) for _ in range(400)]),
            "chosen": [score + choose.gauss(0, 0.15) for score in dense_scores],
        }
        if regression
        else None,
        "changed": [
            {
                "text": HOSTILE
                if index == 0
                else "a gorgeous , witty , seductive movie that never quite earns its ending",
                "text_pair": "A second text of the pair." if index % 3 == 2 else None,
                "label": "positive" if labeled else None,
                "dense": "positive (0.93)",
                "chosen": "negative (0.61)",
                "difference": 0.54 - index / 100,
            }
            for index in range(20)
        ],
    }
    speed = [
        {
            "model": model,
            "batch_size": batch,
            "length": length,
            "p50_ms": time,
            "p95_ms": 1.03 * time,
            "p99_ms": 1.2 * time,
            "throughput": 1000 * batch / time,
        }
        for model, factor in (("dense", 1.0), ("dense int8", 0.38), ("chosen", 0.22))
        for batch in (1, 8)
        for length in (32, 128)
        for time in [factor * batch * length * 0.0965]
    ]
    return {
        "schema_version": 1,
        "command": "compress",
        "verdict": {
            "status": "holds",
            "sentence": "auto 50 % int8 loses 0.34 points of accuracy, at most 0.92 at 95 % confidence: it holds.",
        },
        "bound": {"kind": "max_drop", "value": 1.0, "confidence": 0.95, "metric": metric}
        if labeled
        else {"kind": "min_agreement", "value": 1.0, "confidence": 0.95, "metric": None},
        "objective": "speed",
        "target": {"runtime": "onnx", "batch_size": 8, "length": 128, "lengths": "fixed"},
        "task": {
            "name": "sst2" if classes == 2 else "custom",
            "type": "regression" if regression else "classification",
            "metrics": [metric],
            "labels": None if regression else names,
        }
        if labeled
        else None,
        "data": {
            "calibration": 200,
            "training": 67349,
            "search": 872,
            "confirmation": 0,
            "files": [{"name": "train.csv", "bytes": 4690022, "sha256": "0f" * 32}],
        },
        "model": {
            "name": "minilm-sst2",
            "fingerprint": "9b1e7c02d4",
            "architecture": "BertForSequenceClassification",
            "license": "apache-2.0",
        },
        "candidates": candidates,
        "chosen": "auto 50 % int8",
        "confirmation": {"texts": 1540, "loss": 0.39, "limit": 0.84, "verdict": "holds", "metrics": None},
        "answers": answers,
        "speed": speed,
        "plan": plan,
        "predicted": [
            {"removed": 0.3, "predicted_error": 0.0051, "loss": 0.17},
            {"removed": 0.5, "predicted_error": 0.0132, "loss": 0.34},
            {"removed": 0.6, "predicted_error": 0.0214, "loss": 0.8},
            {"removed": 0.75, "predicted_error": 0.0512, "loss": 5.2},
        ],
        "invariance": {
            "alone_vs_batch": {"largest_difference": 1.3e-6, "flips": 0},
            "exported_vs_pytorch": {"largest_difference": 0.021, "flips": 3},
            "threads": {"largest_difference": 9.5e-7, "flips": 0},
            "texts": 256,
        },
        "memory": [
            {"model": "dense", "bytes": 1.42e8},
            {"model": "dense int8", "bytes": 8.1e7},
            {"model": "chosen", "bytes": 6.0e7},
        ],
        "files": [
            {"name": "config.json", "bytes": 48211},
            {"name": "model.safetensors", "bytes": 68900000},
            {"name": "onnx/model.onnx", "bytes": 17400000},
            {"name": "tokenizer.json", "bytes": 711396},
        ],
        "minutes": 6.1,
        "seconds": {"calibration": 50.2, "search": 300.4},
        "environment": {
            "machine": "x86_64",
            "processor": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
            "cores": 2,
            "threads": 2,
            "instruction_sets": ["avx2", "avx512f", "avx512_vnni", "amx_int8"],
            "versions": {"python": "3.12.3", "torch": "2.9.0", "transformers": "5.2.0", "onnxruntime": "1.32.0"},
        },
        "provenance": {
            "command": "bertsurgeon compress minilm-sst2 --task sst2 --to onnx -o deployed",
            "seed": 0,
            "bertsurgeon": "0.1.0",
            "config": {"max_drop": 1.0, "confidence": 0.95, "objective": "speed", "precision": "auto", "recover": True},
        },
    }
