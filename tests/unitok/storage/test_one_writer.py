"""Nobody writes a file but by the one writer: the package is searched for calls that would."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import unitok

WRITERS = {"whole_file", "whole_files", "replacing"}
RENAMES = {"replace", "rename", "renames", "move", "link", "symlink"}
WRITES = {"save_file", "save_model", "write_table", "write_text", "write_bytes", "savefig", "save", "save_pretrained"}
# Where a file is written whose path a writer gave, or which grows over several calls.
GIVEN = {
    ("storage/whole.py", "whole_files"),
    ("storage/lock.py", "only_writer"),  # who holds it, in a file of its own
    ("storage/tensors.py", "write_tensors"),
    ("storage/parquet.py", "write_parquet"),
    ("ids/table_files.py", "write_rows"),
    ("data/files.py", "write_embedding_info"),
    ("data/embedded.py", "append"),
    ("evaluation/figure.py", "draw_report"),
    ("recommender/rq_transformer.py", "save_pretrained"),
    ("cli/ids/align.py", "align"),
    ("cli/tokenizer/add_domain.py", "add_domain"),  # these save by Tokenizer and SequenceRecommender
    ("cli/tokenizer/fit_session.py", "fit_and_save"),
    ("cli/recommend/train.py", "train"),
    ("recommender/saving.py", "check_tokenizer"),  # these write into a temporary folder
    ("cli/doctor.py", "_saving_is_no_matter"),
}


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def opens_to_write(node: ast.Call) -> bool:
    texts = [arg.value for arg in [*node.args, *(k.value for k in node.keywords)] if isinstance(arg, ast.Constant)]
    return called(node) == "open" and any(isinstance(t, str) and set(t) & set("wax+") and len(t) < 4 for t in texts)


def writes(tree: ast.AST, function: str = "", guarded: bool = False) -> Iterator[tuple[str, str]]:
    """Each call that writes or renames outside a writer's block: the function that it is in, and the call."""
    for node in ast.iter_child_nodes(tree):
        inner, safe = function, guarded
        if isinstance(node, ast.FunctionDef):
            inner = node.name
        if isinstance(node, ast.With):
            safe |= any(isinstance(i.context_expr, ast.Call) and called(i.context_expr) in WRITERS for i in node.items)
        if isinstance(node, ast.Call):
            name = called(node)
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            renames = name in RENAMES and (
                (isinstance(owner, ast.Name) and owner.id in ("os", "shutil"))
                or (name in ("replace", "rename") and len(node.args) == 1 and not node.keywords)
            )
            if renames or ((name in WRITES or opens_to_write(node)) and not guarded):
                yield function, ("rename: " if renames else "") + name
        yield from writes(node, inner, safe)


def test_nothing_is_written_but_by_the_one_writer() -> None:
    root = Path(unitok.__file__).parent
    found = {
        (file.relative_to(root).as_posix(), *where)
        for file in sorted(root.rglob("*.py"))
        for where in writes(ast.parse(file.read_text()))
    }
    renames = {(file, call) for file, _, call in found if call.startswith("rename")}
    assert {file for file, _ in renames} == {"storage/whole.py"}
    others = {(file, function) for file, function, call in found if not call.startswith("rename")}
    assert others - GIVEN == set()
    assert GIVEN - others == set()  # the list holds no more than it must


def test_what_writes_elsewhere_is_found() -> None:
    code = """
def f(path):
    path.write_text("x")
    os.replace(path, path)
    path.with_suffix(".partial").replace(path)
    with path.open("wb") as file:
        np.save(file, 1)
    with whole_file(path) as partial:
        partial.write_text("x")
    text.replace("a", "b"); dataclasses.replace(x, a=1); path.open("rb")
"""
    assert [call for _, call in writes(ast.parse(code))] == [
        "write_text",
        "rename: replace",
        "rename: replace",
        "open",
        "save",
    ]


def test_serving_and_the_data_folder_import_no_torch() -> None:
    code = "import sys, unitok.storage.pair, unitok.data.folder; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
