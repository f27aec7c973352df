"""Sizes of balanced groups."""


def group_sizes(channels: int, groups: int) -> list[int]:
    """Sizes of ``groups`` groups of ``channels`` channels; they differ by at most one, larger groups first."""
    quotient, remainder = divmod(channels, groups)
    return [quotient + 1] * remainder + [quotient] * (groups - remainder)
