"""Extension of griffe (mkdocs.yml): what the site shows of docstrings that are written for ``help()``."""

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Shows the section ``Example:`` as code, and roles such as ``:class:`` as links or code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes the docstring of an object as soon as it is collected."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r":\w+:`~?bertsurgeon\.(\w+)`", r"[`\1`][bertsurgeon.\1]", text)  # a public name
            obj.docstring.value = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text)
