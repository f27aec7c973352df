r"""Recovery of the base-size study's pruned models: learning rates, epochs, losses, and rounding to INT8 in training.

    python experiments/base_recovery.py --data-dir ../shared/data/glue --tasks cola

Starts from the one-shot models that `experiments/base_study.py` kept, and scores each result in PyTorch fp32 and in
OpenVINO INT8. Rows are `TASK/SHARE/VARIANT`: `start`, `default` (the defaults of `recover`), and the grid.
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel

from base_study import BaseTask, add_options, open_task
from bertsurgeon import ExportConfig, TrainingConfig, evaluate, export, load_model, recover, save_model
from bertsurgeon.evaluation import compare
from bertsurgeon.runtime import open_exported
from lib.common import make_parser, parse_arguments
from lib.int8_rounding import int8_rounding
from lib.results_store import ResultsStore
from lib.varied_texts import with_variations

SHARES = (0.12, 0.25, 0.06)
REPLACED = 0.15
"""Share of the tokens that are replaced in variations of texts."""


@dataclass(frozen=True)
class Variant:
    """One way to recover.

    Attributes:
        config: The training options.
        rounds: Whether the encoder is rounded to INT8 during training.
        copies: Variations of each text, which the teacher answers; with them, labels are not used.
    """

    config: TrainingConfig
    rounds: bool = False
    copies: int = 0


def variants(seed: int) -> Iterator[tuple[str, Variant | None]]:
    """Yields the name and the options of each variant; None is the start."""
    base = TrainingConfig(bf16=True, seed=seed)
    yield "start", None
    yield "default", Variant(base)
    for epochs in (3, 10):
        for rate in (2e-5, 5e-5, 1e-4, 2e-4):
            yield f"rate-{rate:g}-epochs-{epochs}", Variant(replace(base, learning_rate=rate, epochs=epochs))
    at_rate = replace(base, learning_rate=1e-4)
    yield "rate-0.0001-epochs-3-int8", Variant(at_rate, rounds=True)
    yield "rate-0.0001-epochs-3-hidden", Variant(replace(at_rate, hidden_weight=1.0))
    yield "rate-0.0001-epochs-3-teacher", Variant(replace(at_rate, distillation_weight=1.0))
    for rate in (5e-5, 1e-4):
        # as many steps as three epochs
        varied = replace(base, learning_rate=rate, epochs=1, distillation_weight=1.0)
        yield f"rate-{rate:g}-varied-texts", Variant(varied, copies=2)
    yield "rate-0.0001-epochs-10-int8", Variant(replace(at_rate, epochs=10), rounds=True)


def measure(task: BaseTask, share: float, name: str, variant: Variant | None) -> dict[str, Any]:
    model = load_model(task.folder_of(f"auto-{share:g}"))
    start = time.perf_counter()
    if variant is not None:
        texts = task.training
        if variant.copies:
            texts = with_variations(texts, task.tokenizer, variant.copies, REPLACED, task.seed)
        with int8_rounding(model) if variant.rounds else nullcontext():
            recover(model, variant.config, texts, task.tokenizer, teacher=task.dense)
    seconds = time.perf_counter() - start
    if variant is not None:
        save_model(model, task.folder_of(f"auto-{share:g}-{name}"), task.tokenizer, overwrite=True)
    return {**task.score(model), "recovery_seconds": seconds, "int8": score_int8(task, model)}


def score_int8(task: BaseTask, model: PreTrainedModel) -> dict[str, Any]:
    """Returns metrics and agreement with the dense model in OpenVINO INT8."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "exported"
        config = ExportConfig("openvino", "int8", tolerance=float("inf"))
        export(model, config, task.training, task.tokenizer, output=output)
        exported = open_exported(output)
        return {
            "metrics": evaluate(exported, task.task, task.validation, task.tokenizer),
            "agreement": compare(task.dense, exported, task.validation, task.tokenizer),
        }


def main() -> None:
    parser = make_parser(__doc__)
    add_options(parser)
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES)
    parser.add_argument("--variants", nargs="*", default=["*"], help="patterns of variants")
    arguments = parse_arguments(parser)
    for name in arguments.tasks:
        task = open_task(name, arguments)
        results = ResultsStore("base_recovery", arguments)
        for share in arguments.shares:
            for label, variant in variants(arguments.seed):
                if any(fnmatch(label, pattern) for pattern in arguments.variants):
                    options = None if variant is None else asdict(variant)
                    results.run(
                        f"{name}/{share:g}/{label}",
                        partial(measure, task, share, label, variant),
                        {"task": name, "encoder": arguments.encoder.name, "share": share, "variant": options},
                    )


if __name__ == "__main__":
    main()
