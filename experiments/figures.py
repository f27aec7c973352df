"""Draws the figures of ``docs/how-it-works.md``.

    python experiments/figures.py --model runs/minilm-sst2 --data-dir ../shared/data/glue

They show the importance of one matrix before and after permutation, the error of every sub-layer by share and
structure, and the share that each sub-layer keeps in the final plans.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from bertsurgeon import AutoConfig, ModelPlan, Sparsity, calibrate, load_model
from bertsurgeon.architectures import unfuse
from bertsurgeon.calibration import collect_statistics, make_batches
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.methods.auto.candidates import SubLayerCurve
from bertsurgeon.methods.auto.costs import Weights
from bertsurgeon.methods.auto.method import plan_budget
from bertsurgeon.methods.auto.search import allocate, full_cost
from bertsurgeon.methods.pgb.importance import score_matrices
from bertsurgeon.methods.pgb.permutation import find_groups
from bertsurgeon.plan import SUB_LAYERS, SubLayerName
from bertsurgeon.tasks import load_task, tokenize
from lib.common import make_task_parser, parse_arguments
from lib.results_store import ROOT
from lib.tables import describe_kept

FIGURES = ROOT / "docs" / "figures"
COLORS = {"both": "black", "removal": "tab:blue", "low rank": "tab:orange", "groups": "tab:green"}
STRUCTURES: dict[str, dict[str, bool]] = {
    "both": {"removal": True, "low_rank": True, "groups": False},
    "removal": {"removal": True, "low_rank": False, "groups": False},
    "low rank": {"removal": False, "low_rank": True, "groups": False},
    "groups": {"removal": False, "low_rank": False, "groups": True},
}


def draw_permutation(scores: np.ndarray, groups: int, path: Path) -> None:
    """Draws the importance of a matrix, averaged over squares of channels, as trained and permuted into groups."""
    generator = np.random.default_rng(0)
    rows, columns = find_groups(scores, groups, "assign", 6, generator)
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
    orders = {
        "as trained": (np.arange(scores.shape[0]), np.arange(scores.shape[1])),
        f"permuted, {groups} groups": (np.concatenate(rows), np.concatenate(columns)),
    }
    cell = 8
    for axis, (title, (row_order, column_order)) in zip(axes, orders.items(), strict=True):
        ordered = scores[np.ix_(row_order, column_order)]
        height, width = (size // cell for size in ordered.shape)
        means = ordered[: height * cell, : width * cell].reshape(height, cell, width, cell).mean((1, 3))
        axis.imshow(np.log10(means + 1e-12), cmap="magma", extent=(0, scores.shape[1], scores.shape[0], 0))
        starts = [(0, 0)]
        for r, c in zip(rows, columns, strict=True):
            top, left = starts[-1]
            axis.add_patch(Rectangle((left, top), len(c), len(r), fill=False, edgecolor="cyan", linewidth=1.5))
            starts.append((top + len(r), left + len(c)))
        kept = sum(
            ordered[a : a + len(r), b : b + len(c)].sum()
            for (a, b), r, c in zip(starts[:-1], rows, columns, strict=True)
        )
        axis.set_title(f"{title}: blocks hold {100 * kept / scores.sum():.0f} % of the importance", fontsize=10)
        axis.set_xlabel("input channel")
        axis.set_ylabel("output channel")
    figure.savefig(path, dpi=110)


def draw_curves(curves: list[SubLayerCurve], path: Path) -> None:
    """Draws the error against the share that is kept, one panel per sub-layer."""
    layers = len(curves) // 2
    figure, axes = plt.subplots(2, layers, figsize=(2.1 * layers, 4.6), sharex=True, layout="constrained")
    for curve in curves:
        axis = axes[list(SUB_LAYERS).index(curve.sub_layer), curve.layer]
        full = full_cost([curve], Weights())
        for name, options in STRUCTURES.items():
            points = [(0.0, curve.dropped)]
            for share in np.linspace(0.02, 0.98, 33):
                try:
                    [choice] = allocate([curve], Weights(), share * full, **options)
                except Exception:
                    continue
                points.append((choice.cost / full, choice.error))
            xs, ys = zip(*sorted(set(points)), strict=True)
            axis.plot(xs, np.array(ys) / curve.dropped, color=COLORS[name], label=name, linewidth=1.2)
        axis.set_title(f"{curve.sub_layer.replace('_', '-')} {curve.layer}", fontsize=9)
        axis.set_yscale("log")
        axis.set_ylim(1e-4, 1.2)
    axes[0, 0].legend(fontsize=7)
    figure.supxlabel("share of the sub-layer's weights that is kept", fontsize=9)
    figure.supylabel("loss increase, relative to dropping it", fontsize=9)
    figure.savefig(path, dpi=110)


def draw_plans(plans: dict[str, ModelPlan], path: Path) -> None:
    """Draws the share that every sub-layer keeps, one bar per plan."""
    names: list[SubLayerName] = list(SUB_LAYERS)
    figure, axes = plt.subplots(1, len(plans), figsize=(3 * len(plans), 3), sharey=True, layout="constrained")
    for axis, (title, plan) in zip(axes, plans.items(), strict=True):
        for position, name in enumerate(names):
            shares = [
                sum(layer.matrices[role].kept for role in SUB_LAYERS[name])
                / sum(layer.matrices[role].size for role in SUB_LAYERS[name])
                for layer in plan.layers
            ]
            axis.bar(np.arange(len(shares)) + 0.4 * position - 0.2, shares, 0.38, label=name.replace("_", "-"))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("layer")
        axis.set_ylim(0, 1)
    axes[0].set_ylabel("share of weights kept")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    arguments = parse_arguments(make_task_parser(__doc__))
    FIGURES.mkdir(exist_ok=True)
    model, tokenizer = unfuse(load_model(arguments.model)), load_tokenizer(arguments.model)
    train = tokenize(load_task(arguments.task, arguments.data_dir).train, tokenizer)
    config = AutoConfig(Sparsity(0.5), structures=("removal", "low_rank", "groups"))
    torch.manual_seed(arguments.seed)
    batches = make_batches(train, tokenizer, 256, 32, arguments.seed)
    scores = score_matrices(model, collect_statistics(model, batches), "fisher", 0.0)
    draw_permutation(scores[2, "attention_output"].numpy(), 3, FIGURES / "permutation.png")
    calibration = calibrate(model, config, train, tokenizer)
    draw_curves(calibration.curves, FIGURES / "curves.png")
    plans = {
        describe_kept(share): plan_budget(model, AutoConfig(Sparsity(1 - share)), calibration)
        for share in (0.5, 0.25, 0.12)
    }
    draw_plans(plans, FIGURES / "plans.png")


if __name__ == "__main__":
    main()
