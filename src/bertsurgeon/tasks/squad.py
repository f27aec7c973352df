"""SQuAD's metrics: exact match and F1 of normalised answers, with and without questions that have none.

Rajpurkar et al., 2016, arXiv 1606.05250, and 2018, arXiv 1806.03822. Libraries offer those of version 1.1
(torchmetrics, which the tests compare with), but none those of version 2.0 with its thresholds, so they are here.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

V2_METRICS = (
    "f1",
    "exact_match",
    "has_answer_f1",
    "has_answer_exact_match",
    "no_answer_accuracy",
    "best_f1",
    "best_f1_threshold",
)
"""Of question answering where questions may have no answer; those before ``has_answer_f1`` also where all have one."""

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous spaces, in this order."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> float:
    """1 where both are the same once normalised, else 0."""
    return float(normalize_answer(answer) == normalize_answer(gold))


def token_f1(answer: str, gold: str, of_nothing: float = 0.0) -> float:
    """The harmonic mean of precision and recall of the words.

    Args:
        answer: What the model says.
        gold: What is right.
        of_nothing: The score where neither has a word left: 0 in version 1.1, 1 in version 2.0.
    """
    said, right = normalize_answer(answer).split(), normalize_answer(gold).split()
    if not said and not right:
        return of_nothing
    shared = (Counter(said) & Counter(right)).total()
    return 2 * shared / (len(said) + len(right))


def answer_metrics(answers: Sequence[str], golds: Sequence[Sequence[str]]) -> dict[str, float]:
    """``exact_match`` and ``f1`` of version 1.1, in percent.

    Args:
        answers: One for each question.
        golds: Right answers to each question; the one that fits best counts.
    """
    exact = [
        max((exact_match(answer, gold) for gold in right), default=0.0) for answer, right in _pairs(answers, golds)
    ]
    f1 = [max((token_f1(answer, gold) for gold in right), default=0.0) for answer, right in _pairs(answers, golds)]
    return {"exact_match": _mean(exact), "f1": _mean(f1)}


def answer_metrics_v2(
    spans: Sequence[str], golds: Sequence[Sequence[str]], null_scores: Sequence[float], threshold: float
) -> dict[str, float]:
    """The metrics of version 2.0, where questions may have no answer; in percent, but for ``best_f1_threshold``.

    ``f1`` and ``exact_match``; both for questions with an answer (``has_answer_…``); ``no_answer_accuracy`` for those
    without; and the highest F1 that any threshold reaches (``best_f1``), with the lowest threshold that does.

    Args:
        spans: The best span for each question; an empty one for none.
        golds: Right answers to each question, none where it has none.
        null_scores: How much more the model thinks of there being no answer than of the span.
        threshold: Above it, a question is left unanswered.
    """
    right = [[gold for gold in texts if normalize_answer(gold)] or [""] for texts in golds]
    answers = ["" if score > threshold else span for span, score in zip(spans, null_scores, strict=True)]
    exact, f1 = _best_of(answers, right)
    has = [texts != [""] for texts in right]
    found = {"f1": _mean(f1), "exact_match": _mean(exact)}
    if any(has):
        found["has_answer_f1"] = _mean([score for score, answered in zip(f1, has, strict=True) if answered])
        found["has_answer_exact_match"] = _mean([score for score, answered in zip(exact, has, strict=True) if answered])
    if not all(has):
        found["no_answer_accuracy"] = _mean([score for score, answered in zip(exact, has, strict=True) if not answered])
    best, at = _best_threshold(_best_of(spans, right)[1], has, null_scores, spans)
    return {**found, "best_f1": best, "best_f1_threshold": at}


def _best_of(answers: Sequence[str], right: Sequence[Sequence[str]]) -> tuple[list[float], list[float]]:
    exact = [max(exact_match(answer, gold) for gold in texts) for answer, texts in _pairs(answers, right)]
    f1 = [max(token_f1(answer, gold, 1.0) for gold in texts) for answer, texts in _pairs(answers, right)]
    return exact, f1


def _best_threshold(
    f1: Sequence[float], has: Sequence[bool], null_scores: Sequence[float], spans: Sequence[str]
) -> tuple[float, float]:
    """Answers one question after the other, the surest first, and looks where the mean is highest.

    Questions with the same score are answered together, as a threshold cannot tell them apart.
    """
    score = best = float(len(has) - sum(has))
    at = min(null_scores) - 1.0  # below all of them: nothing is answered
    order = sorted(range(len(has)), key=null_scores.__getitem__)
    for place, index in enumerate(order):
        score += f1[index] if has[index] else -1.0 if spans[index] else 0.0
        last = place + 1 == len(order) or null_scores[order[place + 1]] > null_scores[index]
        if last and score > best:
            best, at = score, null_scores[index]
    return 100.0 * best / len(has), at


def _pairs(answers: Sequence[str], golds: Sequence[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    return list(zip(answers, golds, strict=True))


def _mean(scores: Sequence[float]) -> float:
    return 100.0 * sum(scores) / len(scores)
