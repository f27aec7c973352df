"""The first stage of reranking by words: BM25, computed by bm25s."""

from __future__ import annotations

from bertsurgeon.tasks.retrieval.collection import Collection
from bertsurgeon.tasks.retrieval.measures import require_retrieval
from bertsurgeon.tasks.retrieval.ranking import rank_scores

STOP_WORDS = "en"
"""Language of the words that BM25 ignores."""


def rank_by_words(collection: Collection, depth: int) -> dict[str, list[str]]:
    """Returns the best documents of each query by BM25 (Lucene's variant, k₁ 1.5, b 0.75), best first.

    Args:
        collection: The collection; words are lower-cased, English stop words are ignored, and nothing is stemmed.
        depth: Documents per query at most; fewer if fewer share a word with it.

    Raises:
        OptionError: If bm25s is not installed.
    """
    bm25s = require_retrieval("bm25s")
    ids = list(collection.documents)
    index = bm25s.BM25()
    corpus = bm25s.tokenize(list(collection.documents.values()), stopwords=STOP_WORDS, show_progress=False)
    if not corpus.vocab:
        return {query: [] for query in collection.queries}
    index.index(corpus, show_progress=False)
    identical = collection.identical_documents()
    rankings: dict[str, list[str]] = {}
    for query, text in collection.queries.items():
        tokens = bm25s.tokenize([text], stopwords=STOP_WORDS, show_progress=False, return_ids=False)[0]
        words = [word for word in tokens if word in index.vocab_dict]
        if not words:
            rankings[query] = []
            continue
        scores = index.get_scores(words)
        matching = [position for position in scores.nonzero()[0] if ids[position] != identical.get(query)]
        ranked = rank_scores([ids[position] for position in matching], scores[matching].tolist())
        rankings[query] = ranked[:depth]
    return rankings
