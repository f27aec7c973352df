"""``python -m bertsurgeon``: the same as the command ``bertsurgeon``."""

from bertsurgeon_command import main  # type: ignore[import-untyped]  # beside the package

if __name__ == "__main__":
    main()
