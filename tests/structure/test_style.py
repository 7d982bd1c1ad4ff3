"""The house's style, as far as a machine can see it: sizes, words, docstrings, tasks in groups."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
USUAL_FUNCTION_LINES = 25
USUAL_SHARE = 0.9

SOURCES = sorted([*(ROOT / "gatewayd").rglob("*.py"), *(ROOT / "handlers").rglob("*.py")])
FILES = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]

# DESIGN's words, and what is not said for them. Where a word has an honest other use it is not in the list.
FORBIDDEN = {
    "pipeline": "route",
    "dispatcher": "intake",
    "mailbox": "queue",
    "backlog": "queue or journal",
    "outbox": "spool",
    "subscriber": "source",
    "ingress": "source",
    "forwarder": "uplink",
    "predictor": "session",
    "prediction": "result",
    "inference": "handle",
    "detection": "result",
    "artifact": "model",
    "quarantine": "bury",
    "poison": "bury",
    "datapoint": "message",
    "middleware": "handler",
    "microbatch": "batch",
}
# A library's own name for a thing.
ALLOWED_NAMES = {"middleware", "middlewares", "backlog", "InferenceSession", "_process_ingress_batch"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, its docstring not counted."""
    end = function.end_lineno or function.lineno
    doc = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    return end - function.lineno + 1 - ((doc.end_lineno or 0) - doc.lineno + 1 if doc else 0)


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names that the code defines or uses, with their lines; attributes of others are theirs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id


def words_of(identifier: str) -> set[str]:
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)
    return {word.lower() for part in parts for word in (part, part.removesuffix("s"))}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_what_it_keeps(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_no_function_is_long_and_nine_in_ten_are_short() -> None:
    lengths = {
        f"{name_of(path)}:{function.name}": length(function)
        for path in SOURCES
        for function in functions(ast.parse(path.read_text()))
    }

    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}
    short = sum(n <= USUAL_FUNCTION_LINES for n in lengths.values())
    assert short / len(lengths) >= USUAL_SHARE


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_one_word_a_thing(path: Path) -> None:
    wrong = {
        f"line {line}: {name}, say {FORBIDDEN[word]}"
        for line, name in identifiers(ast.parse(path.read_text()))
        if name not in ALLOWED_NAMES
        for word in words_of(name) & FORBIDDEN.keys()
    }

    assert wrong == set()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_task_is_in_a_group_and_has_a_name(path: Path) -> None:
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("asyncio.gather", "gather", "asyncio.create_task", "create_task", "asyncio.ensure_future"):
            wrong.append(f"line {node.lineno}: {called}")
        if called.endswith(".create_task") and not any(keyword.arg == "name" for keyword in node.keywords):
            wrong.append(f"line {node.lineno}: {called} without a name")

    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_being_cancelled_is_never_swallowed(path: Path) -> None:
    """A handler of CancelledError or BaseException raises again; a bare `except:` is not there at all."""
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            caught = "everything" if node.type is None else ast.unparse(node.type)
            catches_all = caught == "everything" or "CancelledError" in caught or "BaseException" in caught
            if catches_all and not any(isinstance(each, ast.Raise) for each in ast.walk(node)):
                wrong.append(f"line {node.lineno}: {caught}")

    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    if path.name == "environment.py":
        return
    # To hand all of it on to a child process is not to read it.
    text = path.read_text().replace("{**os.environ, ", "")

    assert re.findall(r"os\.environ\b|os\.getenv\(", text) == []
