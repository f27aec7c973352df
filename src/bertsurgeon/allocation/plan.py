"""From choices to a plan."""

from bertsurgeon.allocation.options import SubLayerCurve
from bertsurgeon.allocation.search import Choice
from bertsurgeon.plan import Dense, Dropped, LayerPlan, LowRank, ModelPlan, Role, Structure, SubLayerName, Units


def make_allocated_plan(
    architecture: str,
    shapes: list[dict[Role, tuple[int, int]]],
    curves: list[SubLayerCurve],
    choices: list[Choice],
) -> ModelPlan:
    """The plan that gives every sub-layer what was chosen for it.

    Args:
        architecture: Name in the table of architectures.
        shapes: Of the dense matrices, layer by layer.
        curves: The sub-layers.
        choices: One for each.
    """
    structures: list[dict[Role, Structure]] = [dict.fromkeys(layer, Dropped()) for layer in shapes]
    units: list[dict[SubLayerName, Units]] = [{} for _ in shapes]
    for curve, choice in zip(curves, choices, strict=True):
        if choice.option is None:
            continue
        for role, rank in choice.ranks.items():
            structures[curve.layer][role] = Dense() if rank is None else LowRank(rank)
        structures[curve.layer].update(choice.option.structures)
        if choice.option.count < curve.total or choice.option.structures:
            units[curve.layer][curve.sub_layer] = Units(choice.option.groups, curve.total, curve.width)
    layers = zip(shapes, structures, units, strict=True)
    return ModelPlan(architecture, tuple(LayerPlan.build(*layer) for layer in layers))
