"""Published data sets: what is read of them, by which rules, and what is said of files that can't be."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unitok.data.published import FORMATS, ITEMS, make_events, write_published
from unitok.data import CatalogueError, ImportedDomain, import_domain
from unitok.data.published.importing import SOURCES, k_core_rows
from unitok.data.template import TEMPLATE, Template

Events = list[tuple[str, str, int]]
REPEATED = "repeated interactions dropped"


def by_the_rules(events: Events, k: int, titled: set[str]) -> Events:
    """The rules in plain loops: the earliest of each pair, only items with a title, then the k-core."""
    first: dict[tuple[str, str], int] = {}
    for user, item, seconds in events:
        first[user, item] = min(seconds, first.get((user, item), seconds))
    left = [(user, item, seconds) for (user, item), seconds in first.items() if item in titled]
    while True:
        users, items = Counter(user for user, _, _ in left), Counter(item for _, item, _ in left)
        fewer = [event for event in left if users[event[0]] >= k and items[event[1]] >= k]
        if len(fewer) == len(left):
            return left
        left = fewer


def histories(found: ImportedDomain) -> list[list[tuple[str, int]]]:
    """Each user's items and times in order; that order and the numbering are held to what was promised."""
    events = found.interactions
    assert events.timestamps is not None
    rows = zip(events.user_ids, events.item_ids, events.positions, events.timestamps, strict=True)
    read: list[list[tuple[str, int]]] = []
    for user, item, position, seconds in rows:
        if user == len(read):
            read.append([])
        assert (user, position) == (len(read) - 1, len(read[-1]))
        read[-1].append((found.items["source_id"][item], int(np.floor(seconds))))
    assert all(times == sorted(times) for times in ([seconds for _, seconds in history] for history in read))
    return read


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_reads_by_the_rules(tmp_path: Path, name: str, zipped: bool) -> None:
    found = import_domain(name, *write_published(tmp_path, name, zipped=zipped), k_core=4)
    expected = by_the_rules(make_events(), 4, {item for item, fields in ITEMS.items() if fields[0]})
    users: dict[str, set[tuple[str, int]]] = {}
    for user, item, seconds in make_events():  # users in the order of the file
        if (user, item, seconds) in expected:
            users.setdefault(user, set()).add((item, seconds))
    read = histories(found)
    assert [set(history) for history in read] == list(users.values())
    assert sum(map(len, read)) == len(expected)
    assert found.items["source_id"] == sorted({item for _, item, _ in expected}) == ["B0", "B1", "B2", "B3", "B4"]
    core = by_the_rules(make_events(), 4, {item for _, item, _ in make_events()})
    untold, repeated = [item for _, item, _ in core if item in ("B8", "B9")], found.counts[REPEATED]
    assert found.counts == {
        "interactions read": len(make_events()),
        "users read": 10,
        "items with interactions": 8,
        "repeated interactions dropped": repeated,
        "items without title or text dropped": 2,
        "interactions of these items dropped": len(untold),
        "items dropped by the k-core": 1,
        "users dropped by the k-core": 10 - len(users),
        "interactions dropped by the k-core": len(make_events()) - repeated - len(untold) - len(expected),
        "items": 5,
        "users": len(users),
        "interactions": len(expected),
    }
    assert repeated > 5
    assert found.template == TEMPLATE


TEXTS = {
    "amazon-2014": [
        "Kettle O'Steel . Category: Home & Kitchen > Kettles . Brand: Brewbird . Whistles softly .",
        "Crème Whisk . Category: Home & Kitchen . For froth & foam",
        "Tea Towel . Brand: Lint",
    ],
    "yelp": [
        "Kettle O'Steel . Category: Home & Kitchen, Kettles . Madeville, MV",
        "Crème Whisk . Category: Home & Kitchen . Madeville, MV",
        "Tea Towel . Madeville, MV",
    ],
    "recbole": [
        "Kettle O'Steel . Category: Home & Kitchen Kettles",
        "Crème Whisk . Category: Home & Kitchen",
        "Tea Towel",
    ],
}


@pytest.mark.parametrize("name", FORMATS)
def test_texts_follow_the_template(tmp_path: Path, name: str) -> None:
    files = write_published(tmp_path, name)
    found = import_domain(name, *files, k_core=4)
    texts = TEXTS["amazon-2014" if name.startswith("amazon") else name]
    assert [found.items["text"][row] for row in (0, 2, 3)] == texts
    assert found.items["title"] == [ITEMS[item][0] for item in found.items["source_id"]]
    short = import_domain(name, *files, k_core=4, template="passage: {title}")
    assert (short.items["text"][3], short.template) == ("passage: Tea Towel", "passage: {title}")


def test_metadata_of_2014_may_be_strict_json(tmp_path: Path) -> None:
    items, events = write_published(tmp_path, "amazon-2014")
    loose = import_domain("amazon-2014", items, events, k_core=4)
    items.write_text("".join(f"{json.dumps(eval(line))}\n" for line in items.read_text().splitlines()))
    assert import_domain("amazon-2014", items, events, k_core=4).items == loose.items


def jsonl(file: Path, *records: object) -> Path:
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return file


def test_awkward_products_are_cleaned_or_left_out(tmp_path: Path) -> None:
    reviews = [{"reviewerID": "u", "asin": asin, "unixReviewTime": 7} for asin in "abcdef"]
    events = jsonl(tmp_path / "events", *reviews)
    items = jsonl(
        tmp_path / "items",
        {"asin": "a", "title": ""},  # an entry without a title gives way to a later one
        {
            "asin": "a",
            "title": "First",
            "category": [["A", "B"], ["A", "C"]],
            "feature": ["x", 3],
            "description": ["y"],
        },
        {"asin": "a", "title": "Second"},
        {"asin": "b", "title": "var aPageStart = (new Date()).getTime();"},
        {"asin": "c", "title": "half \ud800 pair", "description": {"odd": 1}},
        {"asin": "d", "title": "2 < 3 <br/>&lt;ok&gt;\n\t!", "category": []},
        {"asin": "f", "title": "n", "main_category": "Only"},
    )
    found = import_domain("amazon-2018", items, events, k_core=1)
    assert found.items["source_id"] == ["a", "c", "d", "f"]
    assert found.items["text"] == [
        "First . Category: A > B; A > C . x y",
        "half ? pair",
        "2 < 3 <ok> !",
        "n . Category: Only",
    ]
    assert found.counts["items without title or text dropped"] == 2


def test_recbole_without_times_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.item").write_bytes("\ufeffitem_id:token\tname:token_seq\r\n1\tOne\r\n2\tTwo\r\n3\tÖ\r\n".encode())
    (tmp_path / "x.inter").write_text("item_id:token\tuser_id:token\n3\tu\n1\tu\n\n2\tu\n1\tu\n2\tv\n")
    found = import_domain("recbole", tmp_path / "x.item", tmp_path / "x.inter", k_core=1)
    assert found.items["title"] == ["One", "Two", "Ö"]
    assert found.interactions.timestamps is None
    assert found.interactions.user_ids.tolist() == [0, 0, 0, 1]
    assert found.interactions.item_ids.tolist() == [2, 0, 1, 1]
    assert found.interactions.positions.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("seed", range(20))
def test_the_k_core_is_that_of_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 30, 150), rng.integers(0, 20 + 5 * seed, 150)
    left = list(range(150))
    while True:
        fewer = [
            row
            for row in left
            if sum(users[other] == users[row] for other in left) >= 3
            and sum(items[other] == items[row] for other in left) >= 3
        ]
        if fewer == left:
            break
        left = fewer
    assert k_core_rows(users, items, 3).tolist() == left


def test_progress_is_in_bytes_of_the_files(tmp_path: Path) -> None:
    item = {"asin": "a", "title": "t"}
    rest = {"asin": "a", "unixReviewTime": 1}
    items = jsonl(tmp_path / "items", *[item] * 5000)
    events = jsonl(tmp_path / "events", *({"reviewerID": f"{n}", **rest} for n in range(5000)))
    events.write_bytes(gzip.compress(events.read_bytes()))
    told: list[tuple[int, int]] = []
    import_domain("amazon-2014", items, events, k_core=1, progress=lambda *step: told.append(step))
    total = items.stat().st_size + events.stat().st_size
    assert {whole for _, whole in told} == {total}
    steps = [done for done, _ in told]
    assert steps == sorted(steps)
    assert len(set(steps)) >= 6
    assert steps[-1] == total


def edit(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(b"\n".join(change(file.read_bytes().splitlines())) + b"\n")


def without_name(lines: list[bytes]) -> list[bytes]:
    """The second line without its item, or a table without the column."""
    if lines[0].startswith((b"item_id:", b"user_id:")):
        return [lines[0].replace(b"item_id:", b"product:"), *lines[1:]]
    fields = ("asin", "parent_asin", "business_id")
    record = {name: value for name, value in eval(lines[1], {"null": None, "true": True}).items() if name not in fields}
    return [lines[0], json.dumps(record).encode(), *lines[2:]]


def remove(file: Path) -> None:
    file.unlink()


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (remove, r"must be .*, got nothing there\. Check the path\."),
    "a folder": (make_folder, r"must be .*, got a folder\. Name the file itself\."),
    "empty": (lambda file: file.write_bytes(b""), r"must be .*, got an empty file\. Download it again\."),
    "blank": (lambda file: file.write_bytes(b"\n \n"), r"must be .*, got an empty file\. Download it again\."),
    "truncated gzip": (
        lambda file: file.write_bytes(gzip.compress(file.read_bytes())[:-20]),
        r"must be .*, got a gzip file that is cut off or broken somewhere after line \d+\. Download it again\.",
    ),
    "broken gzip": (
        lambda file: file.write_bytes(gzip.compress(file.read_bytes())[:12] + b"\xff" * 99),
        r"must be .*, got a gzip file that is cut off or broken somewhere after line \d+\. Download it again\.",
    ),
    "half a line": (lambda file: file.write_bytes(file.read_bytes()[:-18]), r"line \d+ must .*, got .*\?"),
    "another encoding": (
        edit(lambda lines: [lines[0], "crème".encode("latin-1") + lines[1], *lines[2:]]),
        r"line 2 must be UTF-8, got the byte 0xe8 in column 3\. Is it whole, and .*\?",
    ),
    "a table": (
        lambda file: file.write_bytes(b"user,item,rating,timestamp\nu,i,5.0,1500000000\n"),
        r"line 1 must be a .*, got 'user,item,rating,timestamp'.*\. Is it whole, and .*\?",
    ),
    "an image": (
        lambda file: file.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 9),
        r"line 1 must be UTF-8, got the byte 0x89 in column 1\. Is it whole, and .*\?",
    ),
    "lists": (edit(lambda lines: [b"[1, 2]", *lines]), r"line 1 must be a .*, got '\[1, 2\]'\. Is it whole, and .*\?"),
    "nested too deeply": (edit(lambda lines: [b"[" * 99_999, *lines]), r"line 1 must be a .*, got '\[\[\[.*\?"),
    "no item": (edit(without_name), r"line [12] must have .*(asin|business_id|item_id).*, got '.*'\. .*\."),
}


@pytest.mark.parametrize("role", ["items", "events"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FORMATS)
def test_faults_are_told_in_one_line_with_their_file(tmp_path: Path, name: str, fault: str, role: str) -> None:
    files = write_published(tmp_path, name)
    spoil, message = FAULTS[fault]
    file = files[role == "events"]
    spoil(file)
    with pytest.raises(CatalogueError) as caught:
        import_domain(name, *files, k_core=4)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500 + len(str(file))
    assert text.startswith(f"{file}: ")
    assert re.fullmatch(message, text.removeprefix(f"{file}: ")), text


def test_what_is_in_the_wrong_place_is_named(tmp_path: Path) -> None:
    for name in FORMATS:
        files = write_published(tmp_path, name)
        with pytest.raises(CatalogueError, match=r"the file of items.* first, then the file of interactions"):
            import_domain(name, *reversed(files))
    items, events = write_published(tmp_path, "amazon-2023")
    with pytest.raises(CatalogueError, match=r"line 1 must have asin, got 'main_category, title, .*parent_asin"):
        import_domain("amazon-2018", items, events)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"reviewerID": 7, "asin": "a", "unixReviewTime": 1}, "must have a name as reviewerID, got '7'"),
        ({"reviewerID": "u", "asin": "", "unixReviewTime": 1}, "must have a name as asin, got"),
        ({"reviewerID": "u", "asin": "a"}, "must have reviewerID, asin, unixReviewTime, got 'reviewerID, asin'"),
        ({"reviewerID": "u", "asin": "a", "unixReviewTime": "now"}, "must have a time as unixReviewTime, got"),
        ({"reviewerID": "u", "asin": "a", "unixReviewTime": 1 << 70}, "must have a time as unixReviewTime, got"),
        ({"reviewerID": "u", "asin": "a", "unixReviewTime": True}, "must have a time as unixReviewTime, got"),
        ({}, "got no field"),
    ],
)
def test_odd_reviews_are_refused_with_their_line(tmp_path: Path, line: dict[str, object], message: str) -> None:
    items, events = write_published(tmp_path, "amazon-2018")
    jsonl(events, {"reviewerID": "u", "asin": "a", "unixReviewTime": 1}, line)
    with pytest.raises(CatalogueError, match="events: line 2 ") as caught:
        import_domain("amazon-2018", items, events)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id:token\titem_id:token\nu\n", "line 2 must have 2 columns between tabs, as the header, got 1"),
        ("user_id:token\titem_id:token\n\ti\n", "line 2 must name its user and item, got"),
        ("user_id:token\titem_id:token\n", "line 1 must be followed by rows, got the end of the file"),
        ("user_id:token\titem_id:number\nu\ti\n", "line 1 must be a header of name:type between tabs, got"),
        ("user_id:token\titem_id:token\titem_id:token\nu\ti\ti\n", "line 1 must name each column once, got"),
        ("user_id:token\titem_id:token\ttimestamp:float\nu\ti\tnan\n", "line 2 must have a time as timestamp, got"),
        ("user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1e99\n", "line 2 must have a time as timestamp, got"),
    ],
)
def test_odd_tables_are_refused_with_their_line(tmp_path: Path, content: str, message: str) -> None:
    items, events = write_published(tmp_path, "recbole")
    events.write_text(content)
    with pytest.raises(CatalogueError) as caught:
        import_domain("recbole", items, events)
    assert f"{events}: {message}" in str(caught.value)


def test_a_time_that_is_no_date_is_refused(tmp_path: Path) -> None:
    items, events = write_published(tmp_path, "yelp")
    jsonl(events, {"user_id": "u", "business_id": "b", "date": "2018-13-01"})
    with pytest.raises(CatalogueError, match=r"line 1 must have a time as date, got .*2018-13-01"):
        import_domain("yelp", items, events)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    items, events = write_published(tmp_path, "amazon-2014")
    exploded = tmp_path / "exploded"
    items.write_text(f"{{'asin': __import__('pathlib').Path({str(exploded)!r}).touch()}}\n")
    with pytest.raises(CatalogueError, match="line 1 must be a JSON object"):
        import_domain("amazon-2014", items, events)
    assert not exploded.exists()


@pytest.mark.parametrize("quotes", ["\\'", '\\"'])
def test_a_literal_without_an_end_is_refused_at_once(tmp_path: Path, quotes: str) -> None:
    items, events = write_published(tmp_path, "amazon-2014")
    items.write_text("{" + quotes * 12_000 + "\n")
    began = time.process_time()
    with pytest.raises(CatalogueError, match="line 1 must be a JSON object"):
        import_domain("amazon-2014", items, events)
    assert time.process_time() - began < 1  # each end was looked for from every quote on: some five seconds


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    items, events = write_published(tmp_path, "yelp")
    with events.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of zeros that takes no room
    with pytest.raises(CatalogueError, match="line 1 must be at most 8 MiB long, got more"):
        import_domain("yelp", items, events)


def test_a_k_core_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    files = write_published(tmp_path, "recbole")
    with pytest.raises(CatalogueError, match=r"k_core 99, got nothing left of \d+ interactions\. Lower k_core"):
        import_domain("recbole", *files, k_core=99)
    files[0].write_text("item_id:token\tname:token\nx\tof another data set\n")
    with pytest.raises(CatalogueError, match="check that both files are of the same data set"):
        import_domain("recbole", *files)


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path, refuses: Callable[..., object]) -> None:
    files = write_published(tmp_path, "yelp")
    with refuses("import_domain", "source"):
        import_domain("netflix", *files)
    with refuses("import_domain", "k_core"):
        import_domain("yelp", *files, k_core=0)
    for template in ("{colour}", "no field"):
        with pytest.raises(CatalogueError, match=r"template: must name fields among {title}, .*, got '.*'"):
            import_domain("yelp", *files, template=template)
    assert tuple(SOURCES) == FORMATS


def test_template_leaves_out_what_is_empty() -> None:
    template = Template("say: {a} . B: {b}, {c} . always", ("a", "b", "c"))
    assert template.fill({"a": "1", "b": "2", "c": ""}) == "say: 1 . B: 2,  . always"
    assert template.fill({"a": "1", "b": "", "c": ""}) == "say: 1 . always"
    assert template.fill({"a": "{b}", "b": "x . y", "c": ""}) == "say: {b} . B: x . y,  . always"
