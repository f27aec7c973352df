from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from bertsurgeon.errors import OptionError
from bertsurgeon.tasks import TASK_TYPES, Task
from bertsurgeon.tasks.contributions import agreement_contributions, contributions

TEXTS = 60


def rows_of_logits(generator, count, width):
    return [{"logits": logits} for logits in torch.randn(count, width, generator=generator)]


def labeled(kind, generator):
    """A task of a type, random labels, and random outputs."""
    if kind == "classification":
        labels = torch.randint(3, (TEXTS,), generator=generator).tolist()
        return ("a", "b", "c"), Dataset.from_dict({"labels": labels}), rows_of_logits(generator, TEXTS, 3)
    if kind == "binary":
        labels = torch.randint(2, (TEXTS,), generator=generator).tolist()
        return ("a", "b"), Dataset.from_dict({"labels": labels}), rows_of_logits(generator, TEXTS, 2)
    if kind == "rare":  # a class that neither labels nor answers contain
        labels = torch.randint(2, (TEXTS,), generator=generator).tolist()
        outputs = [
            {"logits": row["logits"] + torch.tensor([0.0, 0.0, -99.0])} for row in rows_of_logits(generator, TEXTS, 3)
        ]
        return ("a", "b", "c"), Dataset.from_dict({"labels": labels}), outputs
    if kind == "regression":
        labels = torch.randint(5, (TEXTS,), generator=generator).double().tolist()  # with ties
        return (), Dataset.from_dict({"labels": labels}), rows_of_logits(generator, TEXTS, 1)
    if kind == "multi-label":
        labels = torch.randint(2, (TEXTS, 3), generator=generator).double().tolist()
        return ("a", "b", "c"), Dataset.from_dict({"labels": labels}), rows_of_logits(generator, TEXTS, 3)
    if kind == "embedding":
        scores = [score for score in range(TEXTS) for _ in range(2)]
        vectors = torch.randn(2 * TEXTS, 4, generator=generator)
        return (), Dataset.from_dict({"scores": scores}), [{"sentence_embedding": vector} for vector in vectors]
    names = ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
    lengths = torch.randint(2, 6, (TEXTS,), generator=generator).tolist()
    labels = [[-100, *torch.randint(5, (length,), generator=generator).tolist()] for length in lengths]
    outputs = [{"logits": torch.randn(length + 1, 5, generator=generator)} for length in lengths]
    return names, Dataset.from_dict({"labels": labels}), outputs


@pytest.mark.parametrize(
    ("kind", "type_name", "metrics"),
    [
        ("classification", "classification", ("accuracy", "f1", "micro_f1", "macro_f1", "matthews")),
        ("binary", "classification", ("accuracy", "f1", "matthews")),
        ("rare", "classification", ("f1", "matthews")),
        ("regression", "regression", ("spearman", "pearson")),
        ("multi-label", "multi-label", ("micro_f1", "macro_f1", "accuracy")),
        ("embedding", "embedding", ("spearman", "pearson")),
        ("tags", "token-classification", ("f1", "precision", "recall", "accuracy", "macro_f1")),
    ],
)
def test_contributions_equal_the_published_metrics(kind, type_name, metrics):
    generator = torch.Generator().manual_seed(3)
    names, dataset, outputs = labeled(kind, generator)
    task = Task("own", type=TASK_TYPES[type_name], metrics=metrics, labels=names)
    for name, value in task.score(outputs, dataset).items():
        each = contributions(task, name, outputs, dataset)
        assert each.metric == pytest.approx(value, abs=1e-9), name
        # the metric of a resample is that of the texts it draws
        drawn = np.random.default_rng(0).integers(len(each), size=len(each))
        rows = drawn if kind != "embedding" else np.stack([2 * drawn, 2 * drawn + 1], 1).flatten()
        resampled = task.score([outputs[row] for row in rows], dataset.select(rows))[name]
        assert each.of(drawn) == pytest.approx(resampled, abs=1e-9), name
        assert each.of(np.stack([drawn, drawn])).shape == (2,)


def test_contributions_to_answers_are_those_of_questions_not_of_windows():
    kind = TASK_TYPES["question-answering"]
    context = "The cat sat on a red mat."
    offsets = [[-1, -1], [0, 3], [4, 7], [8, 11]]
    dataset = Dataset.from_dict(
        {
            "example": [0, 0, 1],
            "context": [context] * 3,
            "offsets": [offsets] * 3,
            "answers": [["cat"], ["cat"], ["the dog sat"]],
        }
    )
    best = torch.tensor([0.0, 0.0, 5.0, 0.0])
    outputs = [{"start_logits": logits, "end_logits": logits} for logits in (torch.zeros(4), best, best)]
    task = Task("own", type=kind, metrics=("f1", "exact_match"), labels=())
    scores = task.score(outputs, dataset)
    for name in ("f1", "exact_match"):
        each = contributions(task, name, outputs, dataset)
        assert len(each) == 2
        assert each.metric == pytest.approx(scores[name])
    with pytest.raises(OptionError, match="best_f1"):
        contributions(task, "best_f1", outputs, dataset)


def test_agreement_counts_texts_words_and_correlates_numbers():
    generator = torch.Generator().manual_seed(0)
    texts = Dataset.from_dict({"input_ids": [[1, 2, 3]] * TEXTS})
    first, second = (rows_of_logits(generator, TEXTS, 3) for _ in range(2))
    same = agreement_contributions(TASK_TYPES["classification"], first, second, texts)
    equal = sum(int(a["logits"].argmax() == b["logits"].argmax()) for a, b in zip(first, second, strict=True))
    assert same.is_binary
    assert same.metric == pytest.approx(100 * equal / TEXTS)
    numbers = [rows_of_logits(generator, TEXTS, 1) for _ in range(2)]
    columns = [torch.stack([row["logits"] for row in rows]).flatten() for rows in numbers]
    expected = 100 * float(torch.corrcoef(torch.stack(columns))[0, 1])
    assert agreement_contributions(TASK_TYPES["regression"], *numbers, texts).metric == pytest.approx(
        expected, abs=1e-4
    )
    # two texts of two words and of one: words count, tokens that begin none do not
    words = Dataset.from_dict({"word_starts": [[0, 1, 1], [0, 1, 0]]})
    tags = [torch.eye(3)[[0, 1, 2]], torch.eye(3)[[0, 1, 1]]]
    other = [torch.eye(3)[[2, 1, 1]], torch.eye(3)[[0, 1, 2]]]
    by_word = agreement_contributions(
        TASK_TYPES["token-classification"], [{"logits": z} for z in tags], [{"logits": z} for z in other], words
    )
    assert not by_word.is_binary
    assert by_word.metric == pytest.approx(100 * 2 / 3)


def test_agreement_of_embedders_is_the_overlap_of_neighbors():
    from bertsurgeon.tasks.metrics import neighbor_metrics

    generator = torch.Generator().manual_seed(1)
    vectors, other = (torch.randn(30, 4, generator=generator) for _ in range(2))
    rows = [[{"sentence_embedding": vector} for vector in side] for side in (vectors, other)]
    each = agreement_contributions(TASK_TYPES["embedding"], *rows, SimpleNamespace(column_names=[]))
    assert each.metric == pytest.approx(neighbor_metrics(vectors, other)["rank_overlap"])
