"""The report of a search as plain data: what is written as ``report.json`` (docs/report.md specifies it)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from bertsurgeon.benchmark import (
    environment,
    fitting_length,
    measure_memory,
    random_inputs,
    time_batches,
)
from bertsurgeon.checkpoint import get_plan
from bertsurgeon.compression.answers import compare_answers, largest_difference
from bertsurgeon.compression.bounds import Quality
from bertsurgeon.compression.candidate import Candidate, Spec
from bertsurgeon.compression.candidates import (
    CHECKPOINT,
    EXPORT,
    LATENCY_FIELDS,
    OUTPUTS,
    CandidateMaker,
    latency_to_dict,
)
from bertsurgeon.compression.inputs import count_texts
from bertsurgeon.compression.search import SearchResult
from bertsurgeon.compression.work_folder import key_of, load_outputs
from bertsurgeon.devices import instruction_sets
from bertsurgeon.prediction import Predictor, evaluating, predict_outputs
from bertsurgeon.reporting import plan_rows
from bertsurgeon.runtime import RUNTIME_NAMES, open_exported
from bertsurgeon.tasks import head_of
from bertsurgeon.tasks.retrieval import Ranking

if TYPE_CHECKING:
    from datasets import Dataset

SCHEMA_VERSION = 1

INVARIANCE_TEXTS = 128
"""Texts that are run alone, in batches, with other threads and in PyTorch."""

_SPEED_SECONDS = 8.0


def describe_candidate(candidate: Candidate, dense: Candidate, dense_int8: Candidate | None) -> dict[str, Any]:
    """Returns one entry of ``candidates``."""
    entry = candidate.entry
    failed = entry["error"] is not None
    int8_time = None if dense_int8 is None or dense_int8.quality is None else dense_int8.relative_time
    return {
        "name": candidate.name,
        "kind": "dense" if candidate.is_dense else "pruned",
        "precision": candidate.spec.precision,
        "removed": entry["removed"],
        "recovered": candidate.spec.recovered,
        "metrics": entry["metrics"],
        "agreement": candidate.agreement,
        "quality": None if candidate.quality is None else candidate.quality.to_dict(),
        **{name: entry[name] for name in ("encoder_weights", "parameters", "flops", "file_bytes", "latency")},
        "speedup": None if failed else 1 / candidate.relative_time,
        "speedup_int8": None if failed or int8_time is None else int8_time / candidate.relative_time,
        "seconds": candidate.seconds,
        "error": entry["error"],
    }


def with_final_speed(
    rows: list[dict[str, Any]], speed: list[dict[str, Any]], names: dict[str, str], shape: tuple[int, int]
) -> list[dict[str, Any]]:
    """Replaces latencies of the search, which are of different minutes, by those that were measured in turns.

    Args:
        rows: Entries of ``candidates``.
        speed: Entries of ``speed``.
        names: Name of the candidate by the name in ``speed``.
        shape: Texts and tokens of the target.
    """
    timed = {names[one["model"]]: one for one in speed if (one["batch_size"], one["length"]) == shape}
    dense, int8 = (timed.get(name) for name in ("dense", "dense int8"))
    if dense is None:
        return rows
    result = []
    for row in rows:
        one = timed.get(row["name"])
        if one is not None:
            row = {
                **row,
                "latency": {name: one[name] for name in LATENCY_FIELDS},
                "speedup": dense["p50_ms"] / one["p50_ms"],
                "speedup_int8": row["speedup_int8"] if int8 is None else int8["p50_ms"] / one["p50_ms"],
            }
        result.append(row)
    return result


def measure_speed(maker: CandidateMaker, models: dict[str, Candidate]) -> list[dict[str, Any]]:
    """Times models in turns at several shapes: one text, the batch of the search, and short texts.

    Args:
        maker: The maker of the candidates.
        models: Candidates by the name in the report.
    """
    config = maker.config
    short = fitting_length([maker.model], 16)
    shapes = dict.fromkeys([(1, short), (1, maker.length), (8, maker.length), (config.batch_size, maker.length)])
    rows = []
    opened = {name: maker.open(candidate) for name, candidate in models.items()}
    for batch_size, length in shapes:
        batch = random_inputs([maker.model], batch_size, length)
        latencies = time_batches(opened, [batch], 40, seconds=_SPEED_SECONDS)
        for name, latency in latencies.items():
            rows.append({"model": name, "batch_size": batch_size, "length": length, **latency_to_dict(latency)})
    return rows


def kept_speed(maker: CandidateMaker, models: dict[str, Candidate]) -> list[dict[str, Any]]:
    """Returns :func:`measure_speed`, measured once for the same models."""
    key = key_of("speed", {name: one.folder.name for name, one in models.items()}, maker.length)
    rows: list[dict[str, Any]] = maker.work.value(key, lambda: measure_speed(maker, models))
    return rows


def measure_invariance(maker: CandidateMaker, chosen: Candidate, in_pytorch: PreTrainedModel) -> dict[str, Any]:
    """Compares the answers of the chosen model to texts alone, in padded batches, with one thread, and in PyTorch."""
    rows = maker.inputs.search.select(range(min(INVARIANCE_TEXTS, len(maker.inputs.search))))
    model = maker.open(chosen)

    def run(one: Predictor, batch_size: int) -> list[dict[str, torch.Tensor]]:
        with evaluating(one):
            return predict_outputs(one, rows, maker.tokenizer, batch_size, "Comparing answers")

    batched, alone = run(model, 16), run(model, 1)
    result: dict[str, Any] = {
        "texts": len(rows),
        "alone_vs_batch": _difference(maker, batched, alone, rows),
        "exported_vs_pytorch": _difference(maker, batched, run(in_pytorch, 16), rows),
        "threads": None,
    }
    if maker.runtime != "pytorch":
        single = run(open_exported(chosen.folder / EXPORT, threads=1), 16)
        result["threads"] = _difference(maker, batched, single, rows)
    return result


def _difference(maker: CandidateMaker, first: Any, second: Any, rows: Dataset) -> dict[str, Any]:
    from bertsurgeon.tasks.contributions import agreement_contributions

    largest = max(largest_difference(one, two) for one, two in zip(first, second, strict=True))
    same = agreement_contributions(head_of(maker.model), first, second, rows)
    flips = None
    if same.is_binary:
        flips = int((same.values[:, 0] == 0).sum())
    elif same.values.shape[1] == 2 and np.equal(np.mod(same.values, 1), 0).all():
        flips = int((same.values[:, 1] - same.values[:, 0]).sum())
    return {"largest_difference": largest, "flips": flips}


def confirm(maker: CandidateMaker, candidate: Candidate, confidence: float) -> tuple[Quality, dict[str, Any]]:
    """Measures the chosen model on the texts that the search did not use.

    Args:
        maker: The maker of the candidates.
        candidate: The chosen model.
        confidence: Confidence of the limit.

    Returns:
        Its loss, and the entry ``confirmation`` of the report.
    """
    rows = maker.inputs.confirmation
    assert rows is not None
    dense = maker.dense_confirmation
    model = maker.open(candidate)
    with evaluating(model):
        outputs = predict_outputs(model, rows, maker.tokenizer, description="Confirming on other texts")
    _, quality = maker.measure_loss(dense, outputs, rows, confidence)
    metrics = {"dense": maker.metrics(dense, rows), "chosen": maker.metrics(outputs, rows)}
    return quality, {**quality.to_dict(), "metrics": metrics}


def build_report(
    maker: CandidateMaker, result: SearchResult, confirmation: dict[str, Any] | None, provenance: dict[str, Any]
) -> dict[str, Any]:
    """Measures what a search did not need, and returns the report.

    Args:
        maker: The maker of the candidates.
        result: The search's outcome.
        confirmation: What :func:`confirm` measured; None if all texts were searched on.
        provenance: ``model`` (name, license), ``files`` and ``command``.
    """
    chosen, dense = result.chosen, result.candidates[0]
    dense_int8 = next((one for one in result.candidates if one.spec == Spec("int8")), None)
    compared = {"dense": dense}
    if dense_int8 is not None and dense_int8.quality is not None and dense_int8 is not chosen:
        compared["dense int8"] = dense_int8
    if chosen is not dense:
        compared["chosen"] = chosen
    task = maker.inputs.task
    rows = maker.inputs.search
    outputs = load_outputs(chosen.folder / OUTPUTS)
    answers = compare_answers(
        head_of(maker.model), maker.model.config, maker.dense_outputs, outputs, rows, maker.tokenizer
    )
    in_pytorch = maker.open_pytorch(chosen)
    plan = get_plan(in_pytorch)
    pruned = [one for one in result.candidates if not one.is_dense and not one.spec.recovered and one.quality]
    speed = kept_speed(maker, compared)
    candidates = [describe_candidate(one, dense, dense_int8) for one in result.candidates]
    if not maker.config.own_lengths:
        names = {name: one.name for name, one in compared.items()}
        candidates = with_final_speed(candidates, speed, names, (maker.config.batch_size, maker.length))
    calibrated = _calibrated(maker, result)  # before the seconds of the steps, to which it adds its own
    seconds = {**maker.step_seconds, "candidates": sum(one.seconds for one in result.candidates)}
    machine = environment()
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": "compress",
        "verdict": describe_verdict(maker, result, confirmation, {one["name"]: one for one in candidates}),
        "bound": {name: getattr(maker.bound, name) for name in ("kind", "value", "confidence", "metric")},
        "accept": maker.config.accept,
        "objective": maker.config.objective,
        "target": {
            "runtime": maker.runtime,
            "batch_size": maker.config.batch_size,
            "length": maker.length,
            "lengths": "own texts" if maker.config.own_lengths else "fixed",
        },
        "task": None
        if task is None
        else {"name": task.name, "type": task.type.name, "metrics": list(task.metrics), "labels": list(task.labels)},
        "data": {
            "calibration": calibrated,
            "training": len(maker.inputs.training),
            "search": count_texts(rows, task),
            "confirmation": 0 if confirmation is None else confirmation["texts"],
            "files": provenance["files"],
        },
        "model": {
            "name": provenance["name"],
            "base_model": provenance["base_model"],
            "fingerprint": maker.inputs.fingerprint,
            "architecture": type(maker.model).__name__,
            "license": provenance["license"],
        },
        "reference": maker.dense_metrics,
        "candidates": candidates,
        "chosen": chosen.name,
        "best_shown": None if result.best_shown is None else result.best_shown.name,
        "stopped": result.stopped,
        "confirmation": confirmation,
        "answers": {"agreement": chosen.agreement, **answers},
        "speed": speed,
        "plan": None if plan is None else plan_rows(plan),
        "predicted": [
            {"removed": one.entry["removed"], "predicted_error": one.entry["predicted_error"], "loss": one.quality.loss}
            for one in pruned
            if one.quality is not None
        ]
        if len(pruned) > 1
        else None,
        "invariance": measure_invariance(maker, chosen, in_pytorch),
        "memory": [
            {"model": name, "bytes": measure_memory(str(_folder(maker, one)), maker.config.batch_size, maker.length)}
            for name, one in compared.items()
        ],
        "seconds": seconds,
        "minutes": sum(seconds.values()) / 60,
        "environment": {**machine, "instruction_sets": instruction_sets()},
        "provenance": {
            "command": provenance["command"],
            "seed": maker.config.seed,
            "bertsurgeon": machine["versions"]["bertsurgeon"],
            "config": json.loads(json.dumps(provenance["config"], default=str)),
        },
    }
    return report


def _calibrated(maker: CandidateMaker, result: SearchResult) -> int:
    """Returns the number of texts that the calibration used; 0 if nothing was pruned."""
    if all(one.is_dense for one in result.candidates):
        return 0
    return sum(len(batch["attention_mask"]) for batch in maker.calibration.batches)


def _folder(maker: CandidateMaker, candidate: Candidate) -> Path:
    return candidate.folder / (CHECKPOINT if maker.runtime == "pytorch" else EXPORT)


def describe_verdict(
    maker: CandidateMaker,
    result: SearchResult,
    confirmation: dict[str, Any] | None,
    rows: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Returns ``verdict``: whether the chosen model is within the bound, and what pruning adds, in words.

    Args:
        maker: The maker of the candidates.
        result: The search's outcome.
        confirmation: The loss on texts that the search did not use; it decides if there is one.
        rows: Entries of ``candidates`` by name.
    """
    bound, chosen = maker.bound, result.chosen
    quality = chosen.quality
    assert quality is not None
    measured: dict[str, Any] = quality.to_dict() if confirmation is None else confirmation
    unit = "points of agreement" if bound.kind == "min_agreement" else f"points of {bound.metric}"
    task = maker.inputs.task
    texts = "queries" if task is not None and isinstance(task.type, Ranking) else "texts"
    on = f"{measured['texts']:,} {texts}" + (" that the search did not use" if confirmation is not None else "")
    points = round(abs(measured["loss"]), 2)
    change = f"{'loses' if measured['loss'] > 0 else 'gains'} {points:.2f} {unit}" if points else f"loses no {unit}"
    loss = f"It {change} on {on}"
    sentences = [f"Chosen: {_title(maker, rows[chosen.name])}."]
    if measured["verdict"] == "holds":
        sentences.append(
            f"{loss}; with {100 * bound.confidence:g} % confidence it loses at most {max(0.0, measured['limit']):.2f}, "
            f"which is within the bound of {bound.value:g}."
        )
    elif measured["verdict"] == "not shown":
        needed = measured["texts_needed"]
        more = f"; about {needed:,} {texts} would show it" if needed else ""
        sentences.append(
            f"{loss}, within the bound of {bound.value:g}, but {measured['texts']:,} {texts} do not show it (the loss "
            f"may be {measured['limit']:.2f}){more}."
        )
        shown = result.best_shown
        if shown is not None and shown is not chosen:
            sentences.append(f"The best model that is shown to hold the bound is {_title(maker, rows[shown.name])}.")
        elif shown is None:
            sentences.append(f"No model is shown to hold the bound on so few {texts}.")
    else:
        sentences.append(f"{loss}, more than the bound of {bound.value:g}.")
    row, int8 = rows[chosen.name], rows.get("dense int8")
    if chosen.is_dense and all(one.is_dense or one.quality is None for one in result.candidates):
        sentences.append(f"No pruned model was measured: {result.stopped}.")
    elif chosen.is_dense:
        sentences.append("Pruning adds nothing within this bound.")
    elif int8 is not None and maker.config.objective == "size" and int8["file_bytes"]:
        sentences.append(
            f"Its file has {100 * row['file_bytes'] / int8['file_bytes']:.0f} % of the size of dense INT8."
        )
    elif row["speedup_int8"] is not None:
        sentences.append(f"Pruning makes it {row['speedup_int8']:.2f} times as fast as dense INT8 in this runtime.")
    return {"status": measured["verdict"], "sentence": " ".join(sentences)}


def _title(maker: CandidateMaker, row: dict[str, Any]) -> str:
    """Names a model with its gain: "auto 52 % int8, 3.10 times as fast as dense in OpenVINO"."""
    runtime = RUNTIME_NAMES[maker.runtime]
    if row["name"] == "dense":
        return f"the dense model in {runtime}"
    if maker.config.objective == "size":
        return f"{row['name']}, a file of {row['file_bytes'] / 1e6:.1f} MB for {runtime}"
    return f"{row['name']}, {row['speedup']:.2f} times as fast as dense in {runtime}"
