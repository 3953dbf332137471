"""Templates that make an item's text from its fields."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from unitok.data.catalogue import CatalogueError

TEMPLATE = "{title} . Category: {categories} . Brand: {brand} . {description}"
_FIELD = re.compile(r"{(\w+)}")
_BETWEEN = " . "


class Template:
    """A text with fields in braces, as in `{title} . Category: {categories}`.

    A part between two ` . ` is left out if all of its fields are empty.

    Args:
        text: the template.
        names: the fields that exist.

    Raises:
        CatalogueError: it names no field, or an unknown one.
    """

    def __init__(self, text: str, names: Collection[str]) -> None:
        self.text = text
        self.names = tuple(dict.fromkeys(_FIELD.findall(text)))
        if not self.names or not set(self.names) <= set(names):
            rule = f"must name fields among {', '.join(f'{{{name}}}' for name in names)}"
            raise CatalogueError(f"template: {rule}, got {text!r}. Write the fields in braces, and nothing else.")
        self._parts = [(part, _FIELD.findall(part)) for part in text.split(_BETWEEN)]

    def fill(self, fields: Mapping[str, str]) -> str:
        """Fill in an item's fields."""
        parts = [part for part, names in self._parts if not names or any(fields[name] for name in names)]
        return _FIELD.sub(lambda found: fields[found[1]], _BETWEEN.join(parts))
