"""Pruning methods, one folder each: its options (``config``) and its steps (``method``)."""
