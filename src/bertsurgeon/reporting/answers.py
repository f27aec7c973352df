"""Blocks that compare the answers of the dense and the chosen model: confusion or scatter, classes, changed texts."""

from collections.abc import Mapping, Sequence
from typing import Any

from bertsurgeon.reporting import figures
from bertsurgeon.reporting import formats as fmt
from bertsurgeon.reporting.blocks import Block, Cell, Examples, Paragraph, Table, figure

SHOWN_CLASSES = 10
"""Largest number of classes of a confusion matrix that is drawn whole."""

LISTED_CLASSES = 12
"""Largest number of classes that are listed one by one; of more, those that changed most."""

LISTED_PAIRS = 40


def answer_blocks(report: Mapping[str, Any]) -> list[Block | None]:
    """Returns the blocks about the answers of a checked report of ``compress``."""
    answers = report.get("answers") or {}
    changed, agreement = answers.get("changed") or [], answers.get("agreement")
    return [
        *(_confusion(answers.get("confusion")) or [_scatter(answers.get("scatter"))]),
        Paragraph(f"The chosen model gives the dense model's answer for {fmt.percent(agreement)} of the texts.")
        if fmt.is_number(agreement)
        else None,
        *_classes(answers.get("per_class")),
        Examples([_example(row) for row in changed], f"Texts whose answers changed most ({len(changed)})")
        if changed
        else None,
    ]


def _confusion(confusion: Mapping[str, Any] | None) -> list[Block | None]:
    if not confusion or not confusion["labels"]:
        return []
    labels, counts = confusion["labels"], confusion["counts"]
    size = len(labels)
    changes = [(counts[i][j], i, j) for i in range(size) for j in range(size) if i != j and counts[i][j]]
    total = sum(count for count, _, _ in changes)
    caption = f"Answers of the dense model (rows) and of the chosen one (columns); {fmt.integer(total)} changed."
    if size <= SHOWN_CLASSES:
        table = Table(
            ("Dense answer", *labels),
            [(label, *map(fmt.integer, row)) for label, row in zip(labels, counts, strict=True)],
            "Number of texts, dense answers by chosen answers",
        )
        return [figure(figures.draw_confusion(labels, counts, caption), caption, table)]
    if not changes:
        return [Paragraph(f"No answer changed between the {size} classes.")]
    involved = [sum(count for count, *pair in changes if index in pair) for index in range(size)]
    most = sorted(sorted(range(size), key=lambda index: (-involved[index], index))[:SHOWN_CLASSES])
    part = [[counts[i][j] for j in most] for i in most]
    drawn = sum(part[i][j] for i in range(len(most)) for j in range(len(most)) if i != j)
    caption += (
        f" Drawn are the {len(most)} of {size} classes with most changes, which hold {fmt.integer(drawn)} of them."
    )
    pairs = sorted(changes, key=lambda change: (-change[0], change[1], change[2]))[:LISTED_PAIRS]
    table = Table(
        ("Dense answer", "Chosen answer", "Texts"),
        [(labels[i], labels[j], fmt.integer(count)) for count, i, j in pairs],
        "Most frequent changes" if len(pairs) < len(changes) else "All changes",
        numbers=frozenset({2}),
    )
    return [figure(figures.draw_confusion([labels[i] for i in most], part, caption), caption, table)]


def _scatter(scatter: Mapping[str, Any] | None) -> Block | None:
    if not scatter:
        return None
    pairs = [
        (a, b)
        for a, b in zip(scatter["dense"], scatter["chosen"], strict=False)
        if fmt.is_number(a) and fmt.is_number(b)
    ]
    if not pairs:
        return None
    differences = sorted(abs(a - b) for a, b in pairs)
    middle, late = (differences[int(share * (len(differences) - 1))] for share in (0.5, 0.95))
    table = Table(
        ("Difference of the answers", "Value"),
        [
            ("median", fmt.significant(middle)),
            ("95th percentile", fmt.significant(late)),
            ("largest", fmt.significant(differences[-1])),
        ],
        "Absolute differences between the two models",
    )
    caption = f"Answers of the chosen model against those of the dense one, {fmt.integer(len(pairs))} texts."
    return figure(figures.draw_scatter(scatter["dense"], scatter["chosen"], caption), caption, table)


def class_change(row: Mapping[str, Any]) -> float | None:
    """Returns the change of a class's F1 in points, or of its recall if that is all there is."""
    for before, after in (("dense_f1", "chosen_f1"), ("dense_recall", "chosen_recall")):
        if fmt.is_number(row.get(before)) and fmt.is_number(row.get(after)):
            return float(row[after] - row[before])
    return None


def most_changed(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Returns the classes whose F1 changed most, the largest change first."""
    return sorted(rows, key=lambda row: (-abs(class_change(row) or 0.0), row["label"]))[:count]


def _classes(rows: Sequence[Mapping[str, Any]] | None) -> list[Block | None]:
    if not rows:
        return []
    if len(rows) <= LISTED_CLASSES:
        return [_class_table(rows, "Quality by class, in percent")]
    top = most_changed(rows, LISTED_CLASSES)
    return [
        _class_table(top, f"The {len(top)} of {len(rows)} classes that changed most, in percent"),
        _class_table(rows, f"All {len(rows)} classes", folded=True),
    ]


def _class_table(rows: Sequence[Mapping[str, Any]], caption: str, *, folded: bool = False) -> Table:
    return Table(
        ("Class", "Texts", "F1 dense", "F1 chosen", "Change", "Recall dense", "Recall chosen"),
        [
            (
                row["label"],
                fmt.integer(row.get("texts")),
                fmt.number(row.get("dense_f1"), 1),
                fmt.number(row.get("chosen_f1"), 1),
                _change_cell(class_change(row)),
                fmt.number(row.get("dense_recall"), 1),
                fmt.number(row.get("chosen_recall"), 1),
            )
            for row in rows
        ],
        caption,
        folded=folded,
    )


def _change_cell(change: float | None) -> Cell:
    if change is None:
        return Cell(fmt.DASH)
    return Cell(fmt.signed(change, 1), "bad" if change <= -1 else "good" if change >= 1 else "")


def _example(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row.get(key) for key in ("text", "text_pair", "label", "dense", "chosen")}
