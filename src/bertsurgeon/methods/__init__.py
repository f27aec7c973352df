"""Pruning methods, one folder each: its options (``config``) and its steps (``method``).

``registry`` is the table of all of them; methods share the rooms below, and do not import each other.
"""
