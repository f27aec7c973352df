"""A retrieval collection: documents, queries, and graded judgements of which documents answer a query."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bertsurgeon import progress
from bertsurgeon.errors import DataError

NAMED = 3
"""Ids that a message names."""

MAX_GRADE = 1000
"""Largest absolute value of a grade: trec_eval allocates memory in proportion to the grades, and overflows above."""


class Judgement(NamedTuple):
    """One line of judgements.

    Attributes:
        query: Id of the query.
        document: Id of the document.
        grade: Relevance, at most ``MAX_GRADE``; 0 and below are not relevant.
    """

    query: str
    document: str
    grade: int


@dataclass(frozen=True)
class Collection:
    """Documents to search, queries with at least one judgement, and the judgements.

    Attributes:
        name: Name for messages and reports.
        documents: Text of each document by id.
        queries: Text of each query by id.
        judgements: Grades of judged documents by query id, then document id; the queries are those of ``queries``.
        titles: Titles of documents, with which their texts begin; those of documents with the id of a query are enough.
    """

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]
    titles: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_parts(
        cls,
        name: str,
        documents: Mapping[str, str],
        queries: Mapping[str, str],
        judgements: Iterable[Judgement],
        titles: Mapping[str, str] | None = None,
    ) -> Collection:
        """Makes a collection of what was read; notes report what is left out, and what counts differently.

        Args:
            name: Name for messages.
            documents: Texts by id, titles included.
            queries: Texts by id.
            judgements: The judgements; one that is repeated must have the same grade.
            titles: Titles by document id; None if there are none.

        Raises:
            DataError: If there are no documents, an id is empty or holds a control character, a grade is no integer
                from -``MAX_GRADE`` to ``MAX_GRADE``, a judgement is repeated with another grade, or no judgement names
                a query and a document of the collection.
        """
        if not documents:
            raise DataError(f"{name} holds no documents; a search needs at least one.")
        for each in (*documents, *queries):
            _check_id(name, each)
        grades: dict[str, dict[str, int]] = {}
        unknown_queries: dict[str, None] = {}
        unknown_documents: dict[str, None] = {}
        negative = 0
        for query, document, grade in judgements:
            if not isinstance(grade, int) or abs(grade) > MAX_GRADE:
                raise DataError(
                    f"The judgements of {name} give document {document!r} the grade {grade!r:.40} for query {query!r}; "
                    f"use integers from -{MAX_GRADE} to {MAX_GRADE}."
                )
            _check_id(name, query)
            _check_id(name, document)
            if query not in queries:
                unknown_queries[query] = None
                continue
            if document not in documents:
                unknown_documents[document] = None
                continue
            of_query = grades.setdefault(query, {})
            if of_query.get(document, grade) != grade:
                raise DataError(
                    f"The judgements of {name} give document {document!r} two grades for query {query!r}, "
                    f"{of_query[document]} and {grade}; leave one of them."
                )
            negative += document not in of_query and grade < 0
            of_query[document] = grade
        if not grades:
            raise DataError(
                f"No judgement of {name} names both a query and a document of the collection; check that the files "
                "belong together."
            )
        blank = [query for query in grades if not queries[query].strip()]
        judged = {query: queries[query] for query in queries if query in grades and query not in blank}
        if not judged:
            raise DataError(f"All queries of {name} that have judgements are blank; check the column of their texts.")
        _note(name, "Judgements of {} name queries that it does not hold; they are left out", unknown_queries)
        _note(name, "Judgements of {} name documents that it does not hold; they are left out", unknown_documents)
        _note(name, "Blank queries of {} are left out", blank)
        _note(name, "Queries of {} without judgements are left out", [one for one in queries if one not in grades])
        _note(
            name,
            "Queries of {} have no relevant document and count 0, whatever is found",
            [query for query in judged if max(grades[query].values()) <= 0],
        )
        _note(
            name,
            "Documents of {} have no text, but can be found",
            [one for one, text in documents.items() if not text.strip()],
        )
        if negative:
            progress.note_once(
                f"Judgements of {name} with a negative grade, which count as not relevant: {negative:,}."
            )
        collection = cls(
            name,
            dict(documents),
            judged,
            {query: grades[query] for query in judged},
            {document: title for document, title in (titles or {}).items() if document in judged},
        )
        _note(
            name,
            "Documents of {} with the id and the text of a query are left out of its ranking",
            collection.identical_documents(),
        )
        return collection

    @property
    def summary(self) -> str:
        """Sizes in words."""
        count = sum(grade > 0 for grades in self.judgements.values() for grade in grades.values())
        return (
            f"{len(self.documents):,} documents, {len(self.queries):,} judged queries, "
            f"{count:,} relevant pairs of a query and a document"
        )

    def identical_documents(self) -> dict[str, str]:
        """Returns queries that are documents themselves, as in duplicate questions.

        They have the same id, and the text of the document with or without its title.

        Returns:
            The document's id by query id; it is left out of that query's ranking, as in BEIR.
        """
        return {
            query: query
            for query, text in self.queries.items()
            if query in self.documents and text.strip() in self._texts_of(query)
        }

    def _texts_of(self, document: str) -> tuple[str, str]:
        """Returns the text of a document with and without its title."""
        text = self.documents[document].strip()
        return text, text.removeprefix(self.titles.get(document, "").strip()).strip()


def _check_id(name: str, text: str) -> None:
    """Refuses ids that trec_eval, JSON or a terminal changes: empty ones, control characters, half surrogate pairs.

    Raises:
        DataError: If the id is one of them.
    """
    if not text:
        raise DataError(f"{name} holds an empty id; every query and document needs one.")
    if not text.isprintable() and any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise DataError(f"The id {text!r:.80} in {name} holds a control character; remove it.")


def _note(name: str, message: str, ids: Iterable[str]) -> None:
    """Reports how many ids something is true of, and the first of them."""
    names = list(ids)
    if names:
        listed = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
        progress.note_once(f"{message.format(name)}: {len(names):,} ({listed}).")
