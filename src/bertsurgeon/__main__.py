"""``python -m bertsurgeon``: the same as the command ``bertsurgeon``."""

from bertsurgeon.cli import main

if __name__ == "__main__":
    main()
