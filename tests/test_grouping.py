from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertsurgeon.grouping import Partition, Scores, assign_groups, group_sizes, kept_importance, sort_groups
from bertsurgeon.methods.pgb.group_counts import DROPPED, GroupCounts
from bertsurgeon.methods.pgb.permutation import Grouping, find_groups, plan_groups
from bertsurgeon.plan import ROLES, Dense, Dropped, Grouped

GROUPINGS: list[Grouping] = ["sort", "assign", "none", "random"]


def make_scores(shape: tuple[int, int], seed: int) -> Scores:
    return np.exp(2 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def random_partition(size: int, groups: int, generator: np.random.Generator) -> Partition:
    bounds = np.cumsum(group_sizes(size, groups))[:-1]
    return [np.sort(part) for part in np.split(generator.permutation(size), bounds)]


def halves(size: int) -> list[Partition]:
    everything = set(range(size))
    return [
        [np.array(chosen), np.array(sorted(everything - set(chosen)))]
        for chosen in combinations(range(size), size // 2)
    ]


def best_halves(scores: Scores) -> tuple[float, Partition, Partition]:
    """The best of all balanced partitions in two groups, by enumeration."""
    rows, columns = (halves(size) for size in scores.shape)
    ranked = [(kept_importance(scores, r, c), i, j) for i, r in enumerate(rows) for j, c in enumerate(columns)]
    value, i, j = max(ranked)
    return value, rows[i], columns[j]


def as_sets(partition: Partition) -> set[frozenset[int]]:
    return {frozenset(group.tolist()) for group in partition}


@given(st.sampled_from([(4, 4), (6, 4), (4, 6)]), st.integers(0, 10**6), st.integers(1, 6))
@settings(max_examples=60)
def test_against_all_partitions(shape: tuple[int, int], seed: int, steps: int) -> None:
    scores = make_scores(shape, seed)
    optimum, best_rows, best_columns = best_halves(scores)
    rows, columns = sort_groups(scores, 2, steps)
    by_sort = kept_importance(scores, rows, columns)
    by_assign = kept_importance(scores, *assign_groups(scores, rows, columns, steps))
    assert by_sort <= by_assign <= optimum * (1 + 1e-6)
    assert by_sort > 0
    stayed = assign_groups(scores, best_rows, best_columns, steps)
    assert kept_importance(scores, *stayed) == pytest.approx(optimum, rel=1e-6)


def test_assign_gains_over_sort() -> None:
    sort, assign, optimum = 0.0, 0.0, 0.0
    for seed in range(30):
        scores = make_scores((6, 4), seed)
        groups = sort_groups(scores, 2, 6)
        best = best_halves(scores)[0]
        sort += kept_importance(scores, *groups) / best
        assign += kept_importance(scores, *assign_groups(scores, *groups, 6)) / best
        optimum += 1
    assert sort < assign <= optimum
    assert assign > 0.9 * optimum


@pytest.mark.parametrize(("shape", "groups"), [((6, 4), 2), ((12, 18), 3), ((24, 16), 4), ((20, 25), 5), ((17, 11), 3)])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("grouping", ["sort", "assign"])
def test_planted_blocks_are_found(grouping: Grouping, seed: int, shape: tuple[int, int], groups: int) -> None:
    generator = np.random.default_rng(seed)
    rows, columns = (random_partition(size, groups, generator) for size in shape)
    scores = 1e-4 * generator.random(shape)
    for index, (r, c) in enumerate(zip(rows, columns, strict=True)):
        scores[np.ix_(r, c)] = 3.0**-index * generator.uniform(0.8, 1, (len(r), len(c)))
    found_rows, found_columns = find_groups(scores, groups, grouping, 6, generator)
    assert as_sets(found_rows) == as_sets(rows)
    assert as_sets(found_columns) == as_sets(columns)
    assert kept_importance(scores, found_rows, found_columns) == pytest.approx(kept_importance(scores, rows, columns))


@given(
    st.integers(2, 20), st.integers(2, 20), st.integers(0, 10**6), st.sampled_from([1, 2, 3]), st.booleans(), st.data()
)
def test_assign_never_loses(height: int, width: int, seed: int, steps: int, sparse: bool, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, min(height, width)))
    generator = np.random.default_rng(seed)
    scores = make_scores((height, width), seed) * (generator.random((height, width)) > 0.7 * sparse)
    rows, columns = (random_partition(size, groups, generator) for size in (height, width))
    value = kept_importance(scores, rows, columns)
    for _ in range(3):
        sizes = [len(group) for group in rows], [len(group) for group in columns]
        rows, columns = assign_groups(scores, rows, columns, steps)
        assert ([len(group) for group in rows], [len(group) for group in columns]) == sizes
        new_value = kept_importance(scores, rows, columns)
        assert new_value >= value
        value = new_value


@given(st.integers(1, 24), st.integers(1, 24), st.sampled_from(GROUPINGS), st.integers(0, 10**6), st.data())
def test_partitions_are_valid(height: int, width: int, grouping: Grouping, seed: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, min(height, width)))
    scores = make_scores((height, width), seed)
    partitions = find_groups(scores, groups, grouping, 2, np.random.default_rng(seed))
    for partition, size in zip(partitions, scores.shape, strict=True):
        assert [len(group) for group in partition] == group_sizes(size, groups)
        assert sorted(np.concatenate(partition).tolist()) == list(range(size))
        assert all((np.diff(group) > 0).all() for group in partition)


def test_none_is_contiguous() -> None:
    rows, columns = find_groups(make_scores((7, 5), 0), 3, "none", 6, np.random.default_rng(0))
    assert [group.tolist() for group in rows] == [[0, 1, 2], [3, 4], [5, 6]]
    assert [group.tolist() for group in columns] == [[0, 1], [2, 3], [4]]


def test_more_sorting_steps_help_on_average() -> None:
    values = [
        np.mean([kept_importance(s, *sort_groups(s, 4, steps)) for s in (make_scores((32, 24), i) for i in range(20))])
        for steps in (1, 6)
    ]
    assert values[1] > values[0]


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_plans_are_reproducible(grouping: Grouping) -> None:
    scores = {(0, role): torch.from_numpy(make_scores((12, 10), index)) for index, role in enumerate(ROLES)}
    counts: GroupCounts = dict(zip(scores, (2, 1, 3, 5, DROPPED, DROPPED), strict=True))
    plans = [plan_groups("bert", scores, counts, grouping, 3, seed) for seed in (4, 4, 5)]
    assert plans[0] == plans[1]
    assert (plans[0] == plans[2]) == (grouping != "random")
    structures = [matrix.structure for _, _, matrix in plans[0]]
    assert [type(structure) for structure in structures] == [Grouped, Dense, Grouped, Grouped, Dropped, Dropped]
    assert [s.groups for s in structures if isinstance(s, Grouped)] == [2, 3, 5]
