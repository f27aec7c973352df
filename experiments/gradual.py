"""oBERT while a model is trained: 90 % of the encoder zero, then INT8; quality and bytes after each step.

    python experiments/gradual.py --model runs/minilm-sst2 --task sst2 --data-dir ../shared/data/glue --epochs 3 --bf16
    python experiments/gradual.py --model runs/mrpc-0 --task mrpc --data-dir ../shared/data/glue --bf16

The dense model is the teacher and the start. The recipe (``experiments/recipes/short.yaml``) is the packaged
``downstream-10`` with fewer prunings and gradients, and ``--epochs`` shortens it further; ``early.yaml`` prunes
earlier. Models are kept in ``runs/gradual``, named like the rows by sparsity, number of epochs and recipe; interrupted
training is resumed. ``--one-shot`` prunes before training instead and keeps its zeros; with ``--epochs 0`` only INT8 is
trained.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from bertsurgeon import ObertConfig, Sparsity, evaluate, load_model, prune, save_model
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.gradual import Recipe, load_recipe
from bertsurgeon.gradual.gradual_pruning import train_gradually
from bertsurgeon.layers.masks import masks_of, sparsity_of
from bertsurgeon.tasks import load_task, tokenize
from lib.common import make_parser, measure_file, parse_arguments
from lib.results_store import ROOT, RUNS, ResultsStore

RECIPES = ROOT / "experiments" / "recipes"
SHORT = "short"
ROUNDS = 4
"""Rounds of gradients in one-shot pruning."""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, help="folder of the fine-tuned dense model")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--recipe", default=str(RECIPES / f"{SHORT}.yaml"))
    parser.add_argument("--epochs", type=float, default=None, help="of pruning; default: those of the recipe")
    parser.add_argument("--sparsity", type=float, default=None, help="at the end; default: that of the recipe")
    parser.add_argument(
        "--one-shot", action="store_true", help="prune before training, in rounds and with compensation, instead"
    )
    parser.add_argument("--int8-epochs", type=float, default=1, help="of training for INT8; 0 for none")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse_arguments(parser)
    results = ResultsStore("gradual", arguments)
    dense, tokenizer, data = (
        load_model(arguments.model),
        load_tokenizer(arguments.model),
        load_task(arguments.task, arguments.data_dir),
    )
    training, validation = (tokenize(part, tokenizer) for part in (data.train, data.validation))

    recipe = load_recipe(arguments.recipe)
    epochs = recipe.epochs if arguments.epochs is None else arguments.epochs
    if epochs == 0 and not arguments.one_shot:
        parser.error("--epochs 0 needs --one-shot: gradual pruning takes place during training.")
    training_recipe = recipe.scaled(epochs) if epochs else recipe
    if arguments.sparsity is not None:
        training_recipe = training_recipe.with_pruning(sparsity=arguments.sparsity)
    pruning = training_recipe.pruning
    assert pruning is not None

    def describe(model: PreTrainedModel) -> dict[str, Any]:
        return {
            "metrics": evaluate(model, data.task, validation, tokenizer),
            "sparsity": sparsity_of(masks_of(model)),
            "bytes": measure_file(model),
        }

    def one_shot() -> PreTrainedModel:
        config = ObertConfig(
            Sparsity(pruning.sparsity),
            pattern=pruning.pattern,
            recomputations=ROUNDS,
            samples=pruning.gradients,
            seed=arguments.seed,
        )
        return prune(dense, config, training, tokenizer)[0]

    def row(name: str, start: Callable[[], PreTrainedModel], recipe: Recipe | None) -> Callable[[], PreTrainedModel]:
        """Measures one step: the model of ``start``, trained by the recipe if there is one.

        Returns:
            A function that loads the step's model.
        """
        row_name = f"{arguments.task}-{arguments.seed}-{pruning.sparsity:g}-{epochs:g}-{name}"
        folder = RUNS / "gradual" / row_name

        def trained() -> PreTrainedModel:
            if not folder.is_dir():
                set_seed(arguments.seed)
                model, work_dir = start(), folder.with_name(f"{folder.name}.training")
                if recipe is not None:
                    train_gradually(
                        model,
                        recipe,
                        training,
                        tokenizer,
                        teacher=dense,
                        work_dir=work_dir,
                        resume=work_dir.is_dir(),
                        bf16=arguments.bf16,
                        seed=arguments.seed,
                        description=name,
                    )
                save_model(model, folder, tokenizer)
                if recipe is not None:
                    shutil.rmtree(work_dir)
            return load_model(folder)

        configuration = {"task": arguments.task, "sparsity": pruning.sparsity, "epochs": epochs, "step": name}
        if recipe is not None:
            configuration["recipe"] = asdict(recipe)
        results.run(row_name, lambda: describe(trained()), configuration, samples=pruning.gradients)
        return trained

    results.run(f"{arguments.task}-{arguments.seed}-dense", lambda: describe(dense), {"task": arguments.task})
    start, name_parts = lambda: load_model(arguments.model), []
    if (name := Path(arguments.recipe).stem) != SHORT:
        name_parts = [name]
    if arguments.one_shot:
        training_recipe = replace(
            training_recipe, pruning=None, learning_rate=replace(recipe.learning_rate, rewinds="none")
        )
        start, name_parts = one_shot, [*name_parts, "oneshot"]
    sparse = row("_".join(name_parts or ["zeros"]), start, training_recipe if epochs else None)
    if arguments.int8_epochs:
        row("_".join([*name_parts, "int8"]), sparse, load_recipe("int8").scaled(arguments.int8_epochs))


if __name__ == "__main__":
    main()
