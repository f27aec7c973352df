"""A small retrieval collection in the layout of BEIR, which several tests write."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

QUERIES = {"q1": "warm film", "q2": "cold day", "q3": "plot"}
DOCUMENTS = {"a": "a warm film", "b": "a cold day", "c": "the old plot", "d": "nothing"}


def write_beir(
    folder: Path,
    documents: Sequence[Any] = tuple({"_id": name, "title": "", "text": text} for name, text in DOCUMENTS.items()),
    queries: Sequence[Any] = tuple({"_id": name, "text": text} for name, text in QUERIES.items()),
    judgements: str = "query-id\tcorpus-id\tscore\nq1\ta\t2\nq2\tb\t1\n",
    split: str = "test",
) -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "qrels" / f"{split}.tsv").write_text(judgements, encoding="utf-8")
    return folder
