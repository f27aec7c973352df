"""Retraining-free methods for comparison, written from their papers; each returns a dense-shaped model with zeros.

Only quality is compared: removed heads and neurons are columns of zeros, low ranks are products, and the share of the
encoder's weights that a small model would keep is counted, not built.
"""
