"""Which item has which ID, as a table of IDs says: for servers, so that it needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path

from unitok.storage.layout import Fingerprint
from unitok_kernels.rules import fail


class AssignedTexts:
    """The assigned IDs of items as text, and the items of IDs. Made by `read`.

    Args:
        text_of: the text of each item's ID, by domain and number of the item.
    """

    def __init__(self, text_of: dict[tuple[str, int], str]) -> None:
        self._text_of = text_of
        self._item_of = {text: item for item, text in text_of.items()}

    def __len__(self) -> int:
        return len(self._text_of)

    @classmethod
    def read(cls, file: str | Path, fingerprint: Fingerprint) -> AssignedTexts:
        """Read what `unitok tokenize` wrote.

        Args:
            file: the table of IDs: .parquet, .csv or .jsonl.
            fingerprint: of the tokenizer that made the IDs.

        Returns:
            AssignedTexts: the IDs of all items in the table.

        Raises:
            CatalogueError: the file is missing, damaged or of another tokenizer, or holds an item or an ID twice.
        """
        import pyarrow as pa  # which takes a moment: a server that is given no table starts without it

        from unitok.data.files import fault
        from unitok.ids.table_files import check_note, integers, read_file, texts

        file = Path(file)
        table = read_file(file, ("domain", "item_id", "semantic_id"))
        check_note(file, table, fingerprint)
        domains = texts(file, table["domain"], "domain").to_pylist()
        items = integers(file, table["item_id"], "item_id", pa.int64()).to_pylist()
        names = texts(file, table["semantic_id"], "semantic_id").to_pylist()
        found = cls(dict(zip(zip(domains, items, strict=True), names, strict=True)))
        for what, held in (("items", found._text_of), ("IDs", found._item_of)):
            if len(held) < len(names):
                step = "Tokenize with a resolver, which gives each item an ID of its own"
                raise fault(file, f"{what} must be distinct", f"{len(held)} in {len(names)} rows", step)
        return found

    def texts(self, domain: str, items: Sequence[int]) -> list[str]:
        """Look up the IDs of items of a domain, as the table has them, each with its suffix.

        Args:
            domain: the domain's name.
            items: N numbers of items.

        Returns:
            list[str]: N texts.

        Raises:
            ValueError: an item isn't in the table.
        """
        _check_sequence("texts", "items", items, Integral, "numbers of items")
        found = [self._text_of.get((domain, int(item))) for item in items]
        if None in found:
            item = items[found.index(None)]
            fail("texts", "items", f"in the table, of domain {domain!r}", item, "Tokenize it, and load the new table.")
        return [text for text in found if text is not None]

    def items(self, texts: Sequence[str]) -> list[tuple[str, int] | None]:
        """Look up the items of IDs, such as a recommender generated.

        Args:
            texts: N texts; spaces between tokens are of no matter.

        Returns:
            list: domain and number of each item; None for an ID that no item has.
        """
        _check_sequence("items", "texts", texts, str, "texts of IDs")
        return [self._item_of.get("".join(text.split())) for text in texts]


def _check_sequence(what: str, name: str, given: Sequence[object], kind: type, rule: str) -> None:
    """Refuse what is no sequence, such as one text alone, and what holds something else."""
    whole = isinstance(given, Iterable) and not isinstance(given, str)
    odd = [x for x in given if not isinstance(x, kind) or isinstance(x, bool)] if whole else [given]
    if odd:
        fail(what, name, f"a sequence of {rule}", repr(odd[0]), "Pass a list of them.", TypeError)
