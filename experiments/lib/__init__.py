"""Shared code of the experiments: the results store, dense models with their data, measurements, and the docs' tables.

Scripts in ``experiments/`` import from here; nothing in here imports a script.
"""
