import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bertsurgeon.errors import PlanError
from bertsurgeon.plan import (
    ROLES,
    SUB_LAYERS,
    Channels,
    Dense,
    Dropped,
    Grouped,
    LayerPlan,
    LowRank,
    MatrixPlan,
    ModelPlan,
    Role,
    Structure,
    dense_plan,
    fold_constants,
    format_channels,
    parse_channels,
    structure_from_dict,
)

channel_sets = st.sets(st.integers(0, 60)).map(lambda channels: tuple(sorted(channels)))


@st.composite
def partial_partitions(draw: st.DrawFn, size: int, groups: int) -> tuple[Channels, ...]:
    """``groups`` disjoint groups of any size above zero; channels may be left out."""
    order = draw(st.permutations(range(size)))
    kept = draw(st.integers(groups, size))
    cuts = (
        sorted(draw(st.sets(st.integers(1, kept - 1), min_size=groups - 1, max_size=groups - 1))) if groups > 1 else []
    )
    bounds = [0, *cuts, kept]
    return tuple(tuple(sorted(order[a:b])) for a, b in pairwise(bounds))


@st.composite
def matrix_plans(draw: st.DrawFn) -> MatrixPlan:
    rows, columns = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    kind = draw(st.sampled_from(["dense", "dropped", "grouped", "low_rank"]))
    structure: Structure
    if kind == "dense":
        structure = Dense()
    elif kind == "dropped":
        structure = Dropped()
    elif kind == "grouped":
        groups = draw(st.integers(1, min(rows, columns)))
        structure = Grouped(draw(partial_partitions(rows, groups)), draw(partial_partitions(columns, groups)))
    else:
        structure = LowRank(draw(st.integers(1, min(rows, columns))))
    return MatrixPlan((rows, columns), structure)


layer_plans = st.fixed_dictionaries({role: matrix_plans() for role in ROLES}).map(LayerPlan)
model_plans = st.builds(
    ModelPlan,
    st.sampled_from(["bert", "roberta", "distilbert"]),
    st.lists(layer_plans, min_size=1, max_size=2).map(tuple),
)


def some_plan() -> ModelPlan:
    shapes: dict[Role, tuple[int, int]] = dict.fromkeys(ROLES, (6, 4))
    matrices = dict(dense_plan("bert", [shapes]).layers[0].matrices)
    matrices["value"] = MatrixPlan((6, 4), Grouped(((0, 2, 3), (1, 5)), ((3,), (0, 1))))
    matrices["key"] = MatrixPlan((6, 4), LowRank(2))
    matrices["intermediate"] = MatrixPlan((6, 4), Dropped())
    return ModelPlan("bert", (LayerPlan(matrices),))


# channels


@given(channel_sets)
def test_channel_runs_round_trip(channels: Channels) -> None:
    assert parse_channels(format_channels(channels)) == channels


@pytest.mark.parametrize(
    ("channels", "text"),
    [((), ""), ((5,), "5"), ((0, 1, 2), "0-2"), ((0, 2, 3, 4, 9), "0 2-4 9"), ((7, 8), "7-8")],
)
def test_channel_runs_are_as_short_as_documented(channels: Channels, text: str) -> None:
    assert format_channels(channels) == text


@pytest.mark.parametrize(
    "text",
    ["1-", "-1", "a", "1,2", " 1", "1 ", "1  2", "1--2", "3-1", "2 1", "1 1", "0-3 2", "0-3 3-5", "5-3 7", 7, None],
)
def test_malformed_channels(text: Any) -> None:
    with pytest.raises(PlanError):
        parse_channels(text)


# structures


@given(matrix_plans())
def test_structure_round_trip(matrix: MatrixPlan) -> None:
    data = json.loads(json.dumps(matrix.structure.to_dict()))
    assert structure_from_dict(data) == matrix.structure


@given(matrix_plans())
def test_kept_counts_what_a_mask_counts(matrix: MatrixPlan) -> None:
    rows, columns = matrix.shape
    structure = matrix.structure
    if isinstance(structure, LowRank):
        counted = torch.ones(rows, structure.rank).numel() + torch.ones(columns, structure.rank).numel()
    else:
        mask = torch.full(matrix.shape, isinstance(structure, Dense))
        if isinstance(structure, Grouped):
            for group_rows, group_columns in zip(structure.row_groups, structure.column_groups, strict=True):
                for row in group_rows:
                    for column in group_columns:
                        mask[row, column] = True
        counted = int(mask.sum())
    assert matrix.kept == counted
    assert matrix.size == rows * columns


@pytest.mark.parametrize(
    "structure",
    [
        Grouped(((0, 1), (1, 2)), ((0,), (1,))),  # a row in two groups
        Grouped(((0,), (1,)), ((0, 1), (1,))),  # a column in two groups
        Grouped(((0, 6),), ((0,),)),  # rows end at 5
        Grouped(((0,),), ((4,),)),  # columns end at 3
        Grouped(((-1,),), ((0,),)),
        Grouped(((0,), ()), ((0,), (1,))),  # an empty group
        Grouped(((0,), (1,)), ((0,),)),  # two row groups, one column group
        Grouped((), ()),
        LowRank(0),
        LowRank(5),
    ],
    ids=str,
)
def test_structures_that_contradict_the_shape(structure: Structure) -> None:
    with pytest.raises(PlanError):
        MatrixPlan((6, 4), structure)


# the plan of a model


@given(model_plans)
def test_plan_round_trip(plan: ModelPlan) -> None:
    assert ModelPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@given(model_plans)
def test_totals(plan: ModelPlan) -> None:
    matrices = [matrix for layer in plan.layers for matrix in layer.matrices.values()]
    assert plan.size == sum(matrix.shape[0] * matrix.shape[1] for matrix in matrices)
    assert plan.kept == sum(matrix.kept for matrix in matrices)
    assert plan.sparsity == pytest.approx(1 - plan.kept / plan.size)
    assert [role for _, role, _ in plan] == list(ROLES) * len(plan.layers)


def test_a_dense_plan_removes_nothing() -> None:
    plan = dense_plan("bert", [dict.fromkeys(ROLES, (6, 4))] * 2)
    assert (plan.size, plan.kept, plan.sparsity) == (2 * 6 * 24, 2 * 6 * 24, 0)


def test_plan_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    some_plan().save(path)
    assert ModelPlan.load(path) == some_plan()


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'"plan"', b"{}", b"\xff\xfe\x00", b"null"])
def test_plan_files_that_are_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PlanError):
        ModelPlan.load(path)


def test_unknown_structure_asks_for_an_update() -> None:
    data = some_plan().to_dict()
    data["layers"][0]["value"]["kind"] = "butterfly"
    with pytest.raises(PlanError, match=r"butterfly.*update"):
        ModelPlan.from_dict(data)


@pytest.mark.parametrize(
    ("role", "change"),
    [
        ("value", {"rows": ["0-3", "3-5"]}),
        ("value", {"rows": ["0-2", "3-6"]}),
        ("value", {"columns": ["0", "4"]}),
        ("value", {"rows": ["0-5"]}),
        ("value", {"rows": ["0-2", ""]}),
        ("value", {"rows": ["0-2", "5-3"]}),
        ("value", {"rows": "0-5"}),
        ("value", {"rows": None}),
        ("value", {"columns": [0, 1]}),
        ("value", {"shape": [3, 4]}),
        ("value", {"shape": [6]}),
        ("value", {"shape": None}),
        ("value", {"kind": None}),
        ("key", {"rank": "many"}),
        ("key", {"rank": 0}),
        ("key", {"shape": [1, 4]}),
    ],
)
def test_damaged_plans(role: str, change: dict[str, Any]) -> None:
    data = some_plan().to_dict()
    data["layers"][0][role].update(change)
    with pytest.raises(PlanError):
        ModelPlan.from_dict(data)


@pytest.mark.parametrize("name", ["shape", "kind", "rows", "columns"])
def test_missing_entries(name: str) -> None:
    data = some_plan().to_dict()
    del data["layers"][0]["value"][name]
    with pytest.raises(PlanError):
        ModelPlan.from_dict(data)


@pytest.mark.parametrize("role", ROLES)
def test_missing_matrices(role: str) -> None:
    data = some_plan().to_dict()
    del data["layers"][0][role]
    with pytest.raises(PlanError):
        ModelPlan.from_dict(data)


# what no longer has an effect


@pytest.mark.parametrize(
    ("dropped", "gone"),
    [
        ([], []),
        (["value"], SUB_LAYERS["attention"]),
        (["attention_output"], SUB_LAYERS["attention"]),
        (["key"], ["key", "query"]),
        (["query"], ["query"]),  # attention is not uniform: the keys still meet the query's bias
        (["intermediate"], SUB_LAYERS["feed_forward"]),
        (["output"], SUB_LAYERS["feed_forward"]),
        (["key", "value"], SUB_LAYERS["attention"]),
        (["query", "output"], ["query", *SUB_LAYERS["feed_forward"]]),
        (list(ROLES), ROLES),
    ],
)
def test_fold_constants(dropped: list[Role], gone: list[Role]) -> None:
    structures: dict[Role, Structure] = {role: Dropped() if role in dropped else Dense() for role in ROLES}
    before = dict(structures)
    folded = fold_constants(structures)
    assert {role for role, structure in folded.items() if isinstance(structure, Dropped)} == set(gone)
    assert structures == before
    assert fold_constants(folded) == folded


@pytest.mark.parametrize(("role", "sub_layer"), [("attention_output", "attention"), ("output", "feed_forward")])
def test_a_sub_layer_is_gone_with_its_last_matrix(role: Role, sub_layer: Any) -> None:
    layer = dense_plan("bert", [dict.fromkeys(ROLES, (6, 4))]).layers[0]
    assert not layer.is_dropped(sub_layer)
    assert LayerPlan({**layer.matrices, role: MatrixPlan((6, 4), Dropped())}).is_dropped(sub_layer)
