r"""What a GPU does: time and memory of pruning, equality with the CPU, and speed of pruned models.

    python experiments/gpu.py
    python experiments/gpu.py --parts equality prune --sizes base

Needs nothing but this repository: random weights for time and memory, and for equality a BERT of four layers and its
tokenizer, trained for a minute on the docstrings of installed packages. Takes about six minutes.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel, PreTrainedTokenizerFast

from bertsurgeon import (
    AutoConfig,
    Calibration,
    CalibrationConfig,
    GroupedLinear,
    PgbConfig,
    Sparsity,
    TrainingConfig,
    calibrate,
    evaluate,
    prepare_for_inference,
    prune,
    train,
)
from bertsurgeon.benchmark import time_batches
from bertsurgeon.checkpoint import attach_plan
from bertsurgeon.compensation import apply_plan
from bertsurgeon.devices import choose_device, move
from bertsurgeon.tasks import load_task, tokenize
from lib.common import BERT_SIZES, LENGTH, make_parser, parse_arguments, random_batches, random_bert
from lib.results_store import ResultsStore
from lib.speed_models import grouped_plan

PARTS = ("ceilings", "equality", "prune", "speed")
SIZE = 4096
"""Of the square products that measure what the card can do."""
AMOUNTS = {"default": 192, "512": 512}
"""Texts of 128 tokens: as many as make the default number of tokens, and a large calibration."""
BATCHES = (1, 8, 32, 128)
REMOVED = (0.5, 0.75, 0.88)
COMPILED = ("dense", "auto-0.75")
"""Models that are also compiled, which takes half a minute for each."""


def synchronize() -> None:
    torch.accelerator.synchronize()


def seconds_of(step: Callable[[], object], repeats: int = 10) -> float:
    """Returns the median time of a step on the GPU, in seconds."""
    times = []
    for _ in range(repeats + 2):
        synchronize()
        start = time.perf_counter()
        step()
        synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[repeats // 2]


def ceilings() -> dict[str, Any]:
    """Measures the card: products in three precisions, copies, and the factorizations that pruning takes."""
    device = choose_device()
    result: dict[str, Any] = {}
    for name, dtype in (("fp64", torch.float64), ("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x = torch.randn(SIZE, SIZE, device=device, dtype=torch.float32).to(dtype)
        result[f"{name}_tflops"] = 2 * SIZE**3 / seconds_of(lambda x=x: x @ x) / 1e12
    x = torch.randn(2**28, device=device)
    result["copy_gb_per_second"] = 2 * x.nbytes / seconds_of(x.clone) / 1e9
    for width in (768, 3072):
        a = torch.randn(width, width, device=device, dtype=torch.float64)
        a = a @ a.T
        result[f"cholesky_{width}_ms"] = 1e3 * seconds_of(partial(torch.linalg.cholesky_ex, a), 5)
        if width == 768:
            result["eigh_768_ms"] = 1e3 * seconds_of(partial(torch.linalg.eigh, a), 5)
            result["eigvalsh_768_ms"] = 1e3 * seconds_of(partial(torch.linalg.eigvalsh, a), 5)
            many = a.expand(32, -1, -1).contiguous()
            result["eigvalsh_32x768_ms"] = 1e3 * seconds_of(partial(torch.linalg.eigvalsh, many), 2)
    return result


def small_encoder() -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Any]:
    """Trains a BERT of four layers on docstrings, from random weights."""
    data = load_task("docstrings")
    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator(data.train["text"], vocab_size=4000, show_progress=False)
    names = {name: f"[{name[:3].upper()}]" for name in ("pad_token", "cls_token", "sep_token")}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words._tokenizer, model_max_length=LENGTH, unk_token="[UNK]", mask_token="[MASK]", **names
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        num_labels=4,
        max_position_embeddings=LENGTH,
    )
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    rows = tokenize(data.train, tokenizer)
    train(model, TrainingConfig(epochs=4, learning_rate=5e-4, seed=0), rows, tokenizer)
    return model, tokenizer, data


def equality() -> dict[str, Any]:
    """Calibrates and prunes the same model on both devices."""
    model, tokenizer, data = small_encoder()
    move(model, torch.device("cpu"))
    rows, validation = (tokenize(part, tokenizer) for part in (data.train, data.validation))
    result: dict[str, Any] = {"dense": evaluate(model, data.task, validation, tokenizer)}
    calibrations = {}
    for device in ("cpu", str(choose_device())):
        start = time.perf_counter()
        calibrations[device] = calibrate(model, CalibrationConfig(), rows, tokenizer, device=device)
        result[f"calibration_seconds_{torch.device(device).type}"] = time.perf_counter() - start
    first, second = calibrations.values()
    errors = [torch.tensor([c.error for curve in one.curves for c in curve.candidates]) for one in (first, second)]
    result["curves_relative_difference"] = float(((errors[0] - errors[1]).abs() / errors[0].clamp_min(1e-12)).max())
    for removed in REMOVED:
        row: dict[str, Any] = {}
        plans = []
        for device, calibration in calibrations.items():
            pruned, report = prune(model, AutoConfig(Sparsity(removed)), calibration, device=device)
            plans.append(report.plan)
            name = torch.device(device).type
            row[f"seconds_{name}"] = report.seconds["compensation"]
            row[f"metrics_{name}"] = evaluate(pruned, data.task, validation, tokenizer)
        row["same_plan"] = plans[0] == plans[1]
        result[f"auto-{removed:g}"] = row
    for method, config in {"pgb": PgbConfig(Sparsity(0.5))}.items():
        row = {}
        for device in calibrations:
            pruned, _ = prune(model, config, rows, tokenizer, device=device)
            row[f"metrics_{torch.device(device).type}"] = evaluate(pruned, data.task, validation, tokenizer)
        result[method] = row
    return result


def random_model(size: str, texts: int) -> tuple[PreTrainedModel, list[dict[str, Tensor]]]:
    """Returns a model with random weights on the GPU, and batches; the peak of the card's memory counts from here."""
    torch.manual_seed(0)
    model = move(random_bert(*BERT_SIZES[size]), choose_device())
    batches = random_batches(texts)
    torch.cuda.reset_peak_memory_stats()
    synchronize()
    return model, batches


@cache
def calibrated(size: str, texts: int) -> tuple[PreTrainedModel, Calibration, dict[str, Any]]:
    """Calibrates a model with random weights on the GPU, and measures time and memory."""
    model, batches = random_model(size, texts)
    start = time.perf_counter()
    calibration = calibrate(model, CalibrationConfig(), batches)
    synchronize()
    measured = {"seconds": time.perf_counter() - start, "peak_gib": torch.cuda.max_memory_allocated() / 2**30}
    return model, calibration, measured


def prune_auto(size: str, texts: int) -> dict[str, Any]:
    """Prunes a model with random weights on the GPU; seconds of each step, and the peak of the card's memory."""
    model, calibration, measured = calibrated(size, texts)
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    _, report = prune(model, AutoConfig(Sparsity(0.5)), calibration)
    synchronize()
    return {
        "seconds": report.seconds,
        "total_seconds": measured["seconds"] + time.perf_counter() - start,
        "peak_gib": max(measured["peak_gib"], torch.cuda.max_memory_allocated() / 2**30),
        "tokens": texts * LENGTH,
    }


def prune_pgb(size: str, texts: int) -> dict[str, Any]:
    """The same for ``pgb``."""
    model, batches = random_model(size, texts)
    start = time.perf_counter()
    _, report = prune(model, PgbConfig(Sparsity(0.5)), batches)
    synchronize()
    return {
        "seconds": report.seconds,
        "total_seconds": time.perf_counter() - start,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "tokens": texts * LENGTH,
    }


@cache
def timed_models() -> dict[str, PreTrainedModel]:
    """Dense and pruned models of BERT-base's shape, in fp32, prepared for inference."""
    dense, calibration, _ = calibrated("base", AMOUNTS["default"])
    models = {"dense": dense}
    for removed in REMOVED:
        models[f"auto-{removed:g}"] = prune(dense, AutoConfig(Sparsity(removed)), calibration).model
    for aligned in (False, True):
        plan = grouped_plan(dense, aligned=aligned)
        name = f"{'aligned' if aligned else 'free'}-groups-0.5"
        models[name] = apply_plan(dense, plan, "none")
        attach_plan(models[name], plan)
    return {name: model if name == "dense" else prepare_for_inference(model) for name, model in models.items()}


def speed(precision: str, compiled: bool) -> dict[str, Any]:
    """Times dense and pruned models in turns, with 128 tokens per text."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    running: dict[str, Any] = {}
    for name, model in timed_models().items():
        if compiled and name not in COMPILED:
            continue
        running[name] = nn.Module.to(deepcopy(model), dtype)
        if compiled:
            running[name].forward = torch.compile(running[name].forward)
    if not compiled:  # the groups without the Triton kernel
        with_torch = deepcopy(running["free-groups-0.5"])
        for module in with_torch.modules():
            if isinstance(module, GroupedLinear):
                module._is_inference = lambda _: False  # type: ignore[method-assign]
        running["free-groups-0.5, without the kernel"] = with_torch
    result = {}
    for size in BATCHES:
        ids = torch.randint(1000, 30000, (size, LENGTH))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        latencies = time_batches(running, [inputs], runs=20, warmup=4)
        result[f"{size}x{LENGTH}"] = {name: latency.p50_ms for name, latency in latencies.items()}
    return result


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--amounts", nargs="*", default=tuple(AMOUNTS), choices=tuple(AMOUNTS), help="of calibration")
    parser.add_argument("--methods", nargs="*", default=("auto", "pgb"), choices=("auto", "pgb"))
    parser.add_argument("--sizes", nargs="*", default=tuple(BERT_SIZES), choices=tuple(BERT_SIZES))
    arguments = parse_arguments(parser)
    if choose_device().type == "cpu":
        raise SystemExit("This machine has no accelerator, so there is nothing to measure.")
    results = ResultsStore("gpu", arguments)
    card = torch.cuda.get_device_name().replace(" ", "-")
    torch.zeros(1, device=choose_device())  # starts the driver
    if "ceilings" in arguments.parts:
        results.run(f"{card}/ceilings", ceilings)
    if "equality" in arguments.parts:
        results.run(f"{card}/equality", equality, seed=0)
    if "prune" in arguments.parts:
        for size, amount in product(arguments.sizes, arguments.amounts):
            for method, measure in {"auto": prune_auto, "pgb": prune_pgb}.items():
                if method not in arguments.methods:
                    continue
                layers, width = BERT_SIZES[size]
                results.run(
                    f"{card}/prune-{size}-{method}-{amount}",
                    partial(measure, size, AMOUNTS[amount]),
                    {"layers": layers, "width": width},
                    seed=0,
                )
                torch.cuda.empty_cache()
    if "speed" in arguments.parts:
        for precision, compiled in (("bf16", False), ("fp32", False), ("bf16", True)):
            name = f"{card}/speed-{precision}" + "-compiled" * compiled
            results.run(name, partial(speed, precision, compiled), seed=0)


if __name__ == "__main__":
    main()
