"""Vocabulary trimming: embedding rows of tokens that a corpus never uses go, tokenizer and model together."""

from bertsurgeon.vocabulary.trim import TrimReport, trim_vocabulary

__all__ = ["TrimReport", "trim_vocabulary"]
