"""Fuzzing of everything that is read from files: mutations, targets, and the command that runs them."""
