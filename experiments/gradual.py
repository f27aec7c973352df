"""oBERT while a model is trained: 90 % of the encoder zero, then INT8; quality and bytes after each step.

    python experiments/gradual.py --model runs/minilm-sst2 --task sst2 --data-dir ../shared/data/glue --epochs 3 --bf16
    python experiments/gradual.py --model runs/mrpc-0 --task mrpc --data-dir ../shared/data/glue --bf16

The dense model is the teacher and the start. The recipe (``experiments/recipes/short.yaml``) is the packaged
``downstream-10`` with fewer prunings and gradients, and ``--epochs`` shortens it further; ``early.yaml`` prunes
earlier. Finished steps are kept, as models in ``runs/gradual`` and as JSON, under their sparsity, number of epochs and
recipe, and not run again; what was cut off is resumed. ``--one-shot`` prunes before training instead: its zeros stay;
with ``--epochs 0`` INT8 is all that is trained.
"""

import argparse
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from bertsurgeon import PruneConfig, evaluate, load_model, progress, prune, save_model
from bertsurgeon.architectures import get_architecture
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.recovery import Recipe, load_recipe, train_gradually
from bertsurgeon.second_order import masks_of, sparsity_of
from bertsurgeon.tasks import load_task, tokenize
from common import cached
from sizes import account

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs" / "gradual"
SHORT = "short"
ROUNDS = 4
"""Of gradients, in one shot."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the fine-tuned dense model")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--recipe", default=str(HERE / "recipes" / f"{SHORT}.yaml"))
    parser.add_argument("--epochs", type=float, default=None, help="of pruning; default: as the recipe says")
    parser.add_argument("--sparsity", type=float, default=None, help="at the end; default: as the recipe says")
    parser.add_argument(
        "--one-shot", action="store_true", help="prune before training, in rounds and with compensation, instead"
    )
    parser.add_argument("--int8-epochs", type=float, default=1, help="of training for INT8; 0 for none")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    dense, tokenizer, data = (
        load_model(arguments.model),
        load_tokenizer(arguments.model),
        load_task(arguments.task, arguments.data_dir),
    )
    training, validation = (tokenize(part, tokenizer) for part in (data.train, data.validation))

    recipe = load_recipe(arguments.recipe)
    epochs = recipe.epochs if arguments.epochs is None else arguments.epochs
    if epochs == 0 and not arguments.one_shot:
        parser.error("Without epochs there is nothing gradual: name --one-shot with --epochs 0.")
    training_recipe = recipe.scaled(epochs) if epochs else recipe
    if arguments.sparsity is not None:
        training_recipe = training_recipe.with_pruning(sparsity=arguments.sparsity)
    pruning = training_recipe.pruning
    assert pruning is not None

    def describe(model: PreTrainedModel) -> dict[str, Any]:
        return {
            "metrics": evaluate(model, validation, tokenizer, data.task),
            "sparsity": sparsity_of(masks_of(model, get_architecture(model.config.model_type))),
            "bytes": account(model),
        }

    def one_shot() -> PreTrainedModel:
        config = PruneConfig(
            method="obert",
            sparsity=pruning.sparsity,
            pattern=pruning.pattern,
            recomputations=ROUNDS,
            samples=pruning.gradients,
            seed=arguments.seed,
        )
        return prune(dense, training, config, tokenizer)[0]

    def row(name: str, start: Callable[[], PreTrainedModel], recipe: Recipe | None) -> Callable[[], PreTrainedModel]:
        """Trains what ``start`` gives, if there is a recipe for it, describes it, and says how to load it."""
        place = f"{arguments.task}-{arguments.seed}-{pruning.sparsity:g}-{epochs:g}-{name}"
        folder = RUNS / place

        def trained() -> PreTrainedModel:
            if not folder.is_dir():
                set_seed(arguments.seed)
                model, work = start(), folder.with_name(f"{folder.name}.training")
                if recipe is not None:
                    train_gradually(
                        model,
                        training,
                        tokenizer,
                        recipe,
                        work,
                        teacher=dense,
                        resume=work.is_dir(),
                        bf16=arguments.bf16,
                        seed=arguments.seed,
                        description=name,
                    )
                save_model(model, folder, tokenizer)
                if recipe is not None:
                    shutil.rmtree(work)
            return load_model(folder)

        settings = {} if recipe is None else {"recipe": asdict(recipe)}
        cached(f"gradual/{place}", lambda: {**settings, **describe(trained())})
        return trained

    cached(f"gradual/{arguments.task}-{arguments.seed}-dense", lambda: describe(dense))
    start, words = lambda: load_model(arguments.model), []
    if (name := Path(arguments.recipe).stem) != SHORT:
        words = [name]
    if arguments.one_shot:
        training_recipe = replace(
            training_recipe, pruning=None, learning_rate=replace(recipe.learning_rate, rewinds="none")
        )
        start, words = one_shot, [*words, "oneshot"]
    sparse = row("_".join(words or ["zeros"]), start, training_recipe if epochs else None)
    if arguments.int8_epochs:
        row("_".join([*words, "int8"]), sparse, load_recipe("int8").scaled(arguments.int8_epochs))


if __name__ == "__main__":
    main()
