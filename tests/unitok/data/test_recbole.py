"""RecBole's files: quotes as its own reader takes them, the column of titles, and lists of a benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from unitok.data import CatalogueError, ImportedDomain, import_domain
from unitok.data.published.lines import Lines
from unitok.data.published.recbole import RECBOLE

HEADER = "item_id:token\ttitle:token\n"
EVENTS = "user_id:token\titem_id:token\nu\tA\n"


def read(folder: Path, items: str, events: str = EVENTS) -> ImportedDomain:
    (folder / "x.item").write_text(items)
    (folder / "x.inter").write_text(events)
    return import_domain("recbole", folder / "x.item", folder / "x.inter", k_core=1)


def rows(folder: Path, items: str) -> list[tuple[str, str]]:
    (folder / "x.item").write_text(HEADER + items)
    return [(item.source_id, item.title) for item in RECBOLE.items(Lines(folder / "x.item", "a .item file"))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # what pandas 3.1 reads with delimiter="\t" and engine="python"
        ('A\t"Ruler 12"" steel"\n', [("A", 'Ruler 12" steel')]),
        ('A\t"The ""Best"" Tent"\nB\tPlain\n', [("A", 'The "Best" Tent'), ("B", "Plain")]),
        ('A\t"a\tb"\n', [("A", "a b")]),
        ('A\t"a\n\nb\tc"\nB\td\n', [("A", "a b c"), ("B", "d")]),
        ('"A"\t""""\n"B ""1"""\tb\n', [("A", '"'), ('B "1"', "b")]),
        ('A\tRuler 12"" steel\nB\t "b"\n', [("A", 'Ruler 12"" steel'), ("B", '"b"')]),
        ("A\tNaN\nB\tnan\nC\t\n", [("A", ""), ("B", ""), ("C", "")]),
    ],
)
def test_quotes_are_those_of_csv(tmp_path: Path, text: str, expected: list[tuple[str, str]]) -> None:
    assert rows(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('A\t"Great Days" Live\nB\tb\n', [("A", '"Great Days" Live'), ("B", "b")]),
        ('A\t"open\nB\t"open" too\nC\t"c"\n', [("A", '"open'), ("B", '"open" too'), ("C", "c")]),
        ('A\t"never closed\nB\tb\n', [("A", '"never closed'), ("B", "b")]),
        ('A\t"far\n' + "B\tb" * 50_000 + '\nC\tc"\n', []),
    ],
)
def test_rows_that_pandas_refuses_stay_as_they_are(tmp_path: Path, text: str, expected: list[tuple[str, str]]) -> None:
    if expected:
        assert rows(tmp_path, text) == expected
    else:  # no quote goes on for so long: the second line is one of its own, whose columns are counted
        with pytest.raises(CatalogueError, match="line 3 must have 2 columns between tabs, as the header, got 50001"):
            rows(tmp_path, text)


def test_ids_in_quotes_are_those_of_the_other_file(tmp_path: Path) -> None:
    found = read(tmp_path, f'{HEADER}"B ""1"""\tb\n', 'user_id:token\titem_id:token\n"u\tv"\t"B ""1"""\nu\t"B ""1"""\n')
    assert found.items["source_id"] == ['B "1"']
    assert found.counts["users"] == 2


@pytest.mark.parametrize(
    ("columns", "title"),
    [
        ("company_name title", "title"),
        ("movie_title name", "name"),
        ("name title", "title"),
        ("company_name item_name", "item_name"),
        ("app_name book_title", "book_title"),
        ("company_name", "company_name"),
    ],
)
def test_the_column_of_titles(tmp_path: Path, columns: str, title: str) -> None:
    names = columns.split()
    header = "\t".join(f"{name}:token" for name in ["item_id", *names])
    found = read(tmp_path, f"{header}\n" + "\t".join(["A", *names]) + "\n")
    assert found.items["title"] == [title]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("item_id:token\tcategories:token_seq\nA\tx\n", "must have a title column: .*, got 'item_id, categories'"),
        ("item_id:token,title:token\nA,a\n", "line 1 must have tabs between columns, got commas: 'item_id:token,title"),
        ("item_id:token;title:token\nA;a\n", "line 1 must have tabs between columns, got semicolons: "),
    ],
)
def test_headers_of_another_kind_are_told(tmp_path: Path, items: str, message: str) -> None:
    with pytest.raises(CatalogueError, match=message) as caught:
        read(tmp_path, items)
    assert str(caught.value).startswith(f"{tmp_path / 'x.item'}: line 1 ")


ITEMS = HEADER + "".join(f"{item}\t{item}\n" for item in "1234")


def test_lists_of_a_benchmark_are_histories(tmp_path: Path) -> None:
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    found = read(tmp_path, ITEMS, f"{header}u\t3 1\t2\nv\t\t4\nv\t4\t1\n")
    events = found.interactions
    assert [found.items["source_id"][item] for item in events.item_ids] == ["3", "1", "2", "4", "1"]
    assert events.user_ids.tolist() == [0, 0, 0, 1, 1]
    assert events.timestamps is None
    assert found.counts["interactions read"] == 6


def test_lists_of_a_benchmark_have_their_times(tmp_path: Path) -> None:
    header = "user_id:token\titem_id:token\ttimestamp:float\titem_id_list:token_seq\ttimestamp_list:float_seq\n"
    found = read(tmp_path, ITEMS, f"{header}u\t4\t9.5\t1 2 3\t1 2 3.5\nu\t2\t2\t1\t1\n")
    assert found.interactions.timestamps is not None
    assert found.interactions.timestamps.tolist() == [1, 2, 3.5, 9.5]
    with pytest.raises(CatalogueError, match=r"line 2 must have as many times in timestamp_list .*, got 1 and 2"):
        read(tmp_path, ITEMS, f"{header}u\t4\t9.5\t1 2\t1\n")
    shorter = header.replace("\ttimestamp_list:float_seq", "")
    with pytest.raises(CatalogueError, match="line 1 must have timestamp_list, as it has item_id_list, got"):
        read(tmp_path, ITEMS, f"{shorter}u\t4\t9.5\t1 2\n")
