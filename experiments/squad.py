"""Question answering: a model is fine-tuned on some of the articles, pruned, recovered, and scored on the others.

    python experiments/squad.py --data-dir ../shared/data/squad

991 training questions are few for all-MiniLM-L6-v2: the scores are for comparison with the dense model.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import (
    Calibration,
    CalibrationConfig,
    Sparsity,
    TrainingConfig,
    calibrate,
    evaluate,
    load_model,
    prune,
    save_model,
    train,
)
from bertsurgeon.benchmark import count_flops, measure_sizes
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.methods.registry import METHODS
from bertsurgeon.tasks import TaskData, limit_rows, load_task, tokenize
from bertsurgeon.workflows import resolve_model
from bertsurgeon.workflows.train_and_save import load_for_finetuning
from lib.common import make_parser, parse_arguments
from lib.results_store import RUNS, ResultsStore

SHARES = (0.5, 0.25)


def describe(
    model: PreTrainedModel, dense: PreTrainedModel, windows: Dataset, tokenizer: PreTrainedTokenizerBase, data: TaskData
) -> dict[str, Any]:
    sizes = [measure_sizes(either).encoder_weights for either in (model, dense)]
    flops = [count_flops(either, 1, 128) for either in (model, dense)]
    return {
        "metrics": evaluate(model, data.task, windows, tokenizer),
        "kept_share": sizes[0] / sizes[1],
        "flops_share": flops[0] / flops[1],
    }


def finetuned(
    data: TaskData, options: TrainingConfig, folder: Path, length: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not folder.is_dir():
        set_seed(options.seed)
        model, tokenizer = load_for_finetuning(resolve_model("minilm"), data)
        windows = tokenize(data.train, tokenizer, length, data.task.type)
        with TemporaryDirectory() as work_dir:
            train(model, options, windows, tokenizer, work_dir=Path(work_dir), description="Fine-tuning")
        save_model(model, folder, tokenizer)
    return load_model(folder), load_tokenizer(folder)


def recovered(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    windows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainingConfig,
) -> PreTrainedModel:
    set_seed(options.seed)
    with TemporaryDirectory() as work_dir:
        train(
            model,
            options,
            windows,
            tokenizer,
            teacher=teacher,
            work_dir=Path(work_dir),
            description="Recovering",
        )
    return model


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--task", default="squad", choices=("squad", "squad_v2"))
    parser.add_argument("--epochs", type=float, default=12, help="of fine-tuning; recovery takes a third of them")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--questions", type=int, default=None, help="use only the first ones of either part")
    parser.add_argument("--methods", nargs="*", default=tuple(METHODS))
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", help="prefix of the rows, for other data or options")
    arguments = parse_arguments(parser)
    results = ResultsStore("squad", arguments)
    data = load_task(arguments.task, arguments.data_dir)
    data = limit_rows(data, arguments.questions, arguments.questions)
    options = TrainingConfig(
        epochs=arguments.epochs, batch_size=16, learning_rate=arguments.learning_rate, bf16=True, seed=arguments.seed
    )
    folder = RUNS / "-".join(["squad", *([arguments.variant] if arguments.variant else []), str(arguments.seed)])
    dense, tokenizer = finetuned(data, options, folder, arguments.length)
    training, validation = (
        tokenize(part, tokenizer, arguments.length, data.task.type) for part in (data.train, data.validation)
    )
    questions = [len(data.train), len(data.validation)]
    common = {"questions": questions, "length": arguments.length}

    def run(name: str, make_model: Callable[[], PreTrainedModel], **configuration: Any) -> None:
        results.run(
            f"{arguments.variant}/{name}" if arguments.variant else name,
            lambda: describe(make_model(), dense, validation, tokenizer, data),
            common | configuration,
            samples=questions[0],
        )

    run("dense", lambda: dense, training=asdict(options))
    recovery = replace(options, epochs=arguments.epochs / 3, learning_rate=arguments.learning_rate / 2)

    @cache
    def calibration() -> Calibration:
        return calibrate(dense, CalibrationConfig(seed=arguments.seed), training, tokenizer)

    def pruned(method: str, share: float) -> PreTrainedModel:
        config = METHODS[method].config(Sparsity(1 - share), seed=arguments.seed)
        return prune(dense, config, calibration() if method == "auto" else training, tokenizer)[0]

    def pruned_and_recovered(method: str, share: float) -> PreTrainedModel:
        return recovered(pruned(method, share), dense, training, tokenizer, recovery)

    for share in arguments.shares:
        for method in arguments.methods:
            name, configuration = f"{method}-{share:g}", {"method": method, "share": share}
            run(name, partial(pruned, method, share), **configuration)
            make_model = partial(pruned_and_recovered, method, share)
            run(f"{name}-recovered", make_model, **configuration, training=asdict(recovery))


if __name__ == "__main__":
    main()
