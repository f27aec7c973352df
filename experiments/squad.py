"""Question answering from end to end: fine-tuned on a part of the articles, pruned, recovered, EM and F1 on the others.

    python experiments/squad.py --data-dir ../shared/data/squad

all-MiniLM-L6-v2 has never answered a question, and 991 of them are few: what counts is how the pruned models compare
with the dense one. Finished rows are kept as JSON and not run again.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import (
    Calibration,
    PruneConfig,
    TrainingOptions,
    calibrate,
    evaluate,
    load_model,
    progress,
    prune,
    save_model,
    train,
)
from bertsurgeon.benchmark import count_flops, measure_sizes
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.cli.sources import resolve_model
from bertsurgeon.cli.train import load_for_finetuning
from bertsurgeon.tasks import TaskData, load_task, shorten, tokenize
from common import cached

RUNS = Path(__file__).parent.parent / "runs"
SHARES = (0.5, 0.25)
METHODS = ("auto", "pgb", "obert")


def scored(
    model: PreTrainedModel, dense: PreTrainedModel, windows: Dataset, tokenizer: PreTrainedTokenizerBase, data: TaskData
) -> dict[str, Any]:
    sizes = [measure_sizes(one).encoder_weights for one in (model, dense)]
    flops = [count_flops(one, 1, 128) for one in (model, dense)]
    return {
        "metrics": evaluate(model, windows, tokenizer, data.task),
        "kept_share": sizes[0] / sizes[1],
        "flops_share": flops[0] / flops[1],
    }


def finetuned(
    data: TaskData, options: TrainingOptions, folder: Path, length: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not folder.is_dir():
        set_seed(options.seed)
        model, tokenizer = load_for_finetuning(resolve_model("minilm"), data)
        windows = tokenize(data.train, tokenizer, length, data.task.kind)
        with TemporaryDirectory() as work:
            train(model, windows, tokenizer, options, Path(work), description="Fine-tuning")
        save_model(model, folder, tokenizer)
    return load_model(folder), load_tokenizer(folder)


def recovered(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    windows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainingOptions,
) -> PreTrainedModel:
    set_seed(options.seed)
    with TemporaryDirectory() as work:
        train(model, windows, tokenizer, options, Path(work), teacher=teacher, description="Recovering")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--task", default="squad", choices=("squad", "squad_v2"))
    parser.add_argument("--epochs", type=float, default=12, help="of fine-tuning; recovery takes a third of them")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--questions", type=int, default=None, help="take only the first ones, of either part")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="squad", help="folder of the results, and name of the dense model")
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    data = load_task(arguments.task, arguments.data_dir)
    data = shorten(data, arguments.questions, arguments.questions)
    options = TrainingOptions(
        epochs=arguments.epochs, batch_size=16, learning_rate=arguments.learning_rate, bf16=True, seed=arguments.seed
    )
    dense, tokenizer = finetuned(data, options, RUNS / f"{arguments.name}-{arguments.seed}", arguments.length)
    training, validation = (
        tokenize(part, tokenizer, arguments.length, data.task.kind) for part in (data.train, data.validation)
    )
    settings = {"questions": [len(data.train), len(data.validation)], "length": arguments.length}

    def row(name: str, make: Callable[[], PreTrainedModel], **further: Any) -> None:
        cached(
            f"{arguments.name}/{name}",
            lambda: {**scored(make(), dense, validation, tokenizer, data), **settings, **further},
        )

    row("dense", lambda: dense, training=asdict(options))
    again = replace(options, epochs=arguments.epochs / 3, learning_rate=arguments.learning_rate / 2)
    known: list[Calibration] = []

    def pruned(method: str, share: float) -> PreTrainedModel:
        config = PruneConfig(sparsity=1 - share, method=method, seed=arguments.seed)  # type: ignore[arg-type]
        if method != "auto":
            return prune(dense, training, config, tokenizer)[0]
        if not known:
            known.append(calibrate(dense, training, config, tokenizer))
        return prune(dense, known[0], config, tokenizer)[0]

    for share in arguments.shares:
        for method in arguments.methods:
            place = f"{method}-{share:g}"
            row(place, lambda m=method, s=share: pruned(m, s))  # type: ignore[misc]
            row(
                f"{place}-recovered",
                lambda m=method, s=share: recovered(pruned(m, s), dense, training, tokenizer, again),  # type: ignore[misc]
                training=asdict(again),
            )


if __name__ == "__main__":
    main()
