"""Plans and metrics of all methods, to compare versions of the code: MiniLM, one-shot, on ``--samples`` texts.

    python experiments/baseline.py --model runs/cola-0 --task cola --data-dir ../shared/data/glue
    python experiments/baseline.py --model runs/minilm-sst2 --task sst2 --data-dir ../shared/data/glue

Rows start with the label of the version, ``--label``. The hash of a plan covers all that it keeps; that of ``obert``,
which changes no shape, covers the masks. On one machine equal hashes mean equal plans; elsewhere sums may round
differently.
"""

import hashlib
import json
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bertsurgeon import PruneConfig, PruneReport, Sparsity, prune
from bertsurgeon.layers.masks import masks_of
from bertsurgeon.methods.registry import METHODS
from lib.common import make_parser, parse_arguments
from lib.models import TaskModel, load_task_model
from lib.results_store import ResultsStore

LABEL = "0.2"
SPARSITIES = (0.5, 0.88)
SAMPLES = 256
"""Calibration texts, the same for all methods."""


def hash_plan(model: PreTrainedModel, report: PruneReport) -> str:
    """Returns the SHA-256 of the plan as JSON with sorted keys; of a sparse model's masks, by layer, role and part."""
    if report.sparse is None:
        return hashlib.sha256(json.dumps(report.plan.to_dict(), sort_keys=True).encode()).hexdigest()
    digest = hashlib.sha256()
    masks = masks_of(model)
    for key in sorted(masks):
        digest.update(masks[key].numpy().tobytes())
    return digest.hexdigest()


def measure(dense: TaskModel, config: PruneConfig) -> dict[str, Any]:
    """Prunes a model; returns the hash of the plan, the sparsity that was reached, and the task's metrics."""
    model, report = prune(dense.model, config, dense.train, dense.tokenizer)
    return {
        "plan_sha256": hash_plan(model, report),
        "sparsity": report.sparsity,
        "metrics": dense.score(model),
        "samples": report.samples,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, help="folder of the fine-tuned dense model")
    parser.add_argument("--task", required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--methods", nargs="*", default=tuple(METHODS), help="default: all; none: the dense model only")
    parser.add_argument("--sparsities", nargs="*", type=float, default=SPARSITIES)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="calibration texts")
    parser.add_argument("--label", default=LABEL, help="version of the code, prefix of the rows")
    arguments = parse_arguments(parser)
    results = ResultsStore("baseline", arguments)
    dense = load_task_model(arguments.model, arguments.task, arguments.data_dir)
    prefix = f"{arguments.label}/{arguments.task}"
    results.run(f"{prefix}/dense", lambda: {"metrics": dense.score(dense.model)}, {"task": arguments.task}, seed=0)
    for sparsity, method in product(arguments.sparsities, arguments.methods):
        config = METHODS[method].config(Sparsity(sparsity), samples=arguments.samples)
        configuration = {"task": arguments.task, "pruning": config.to_dict()}
        results.run(f"{prefix}/{method}-{sparsity:g}", partial(measure, dense, config), configuration, seed=config.seed)


if __name__ == "__main__":
    main()
