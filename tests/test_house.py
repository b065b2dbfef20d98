"""The rules of the house, kept by reading the code: who may import whom, what pure modules may not touch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "eventstore": {"eventstore"},
    "streaming": {"streaming", "eventstore"},
    "pipeline": {"pipeline", "eventstore"},
    "foldstream": {"foldstream", "streaming", "pipeline", "eventstore"},
}
PURE = [
    *(
        f"eventstore/{name}.py"
        for name in ("admit", "category", "chain", "errors", "event", "fold", "frozen", "text", "upcast")
    ),
    *(f"eventstore/categories/{name}.py" for name in ("__init__", "build", "build_state", "build_vocabulary")),
    *(f"eventstore/categories/{name}.py" for name in ("task", "task_vocabulary")),
    "eventstore/archive.py",
    "eventstore/stores/batch.py",
    *(f"eventstore/{name}.py" for name in ("page", "shape", "stores/pages")),
    *(f"streaming/{name}.py" for name in ("cursor", "listing", "wire", "token")),
    *(f"pipeline/{name}.py" for name in ("flow", "planner")),
    "foldstream/commands/running/tape.py",
]
IMPURE_MODULES = {
    *("asyncio", "anyio", "psycopg", "psycopg_pool", "redis", "starlette", "socketio", "uvicorn", "procrastinate"),
    *("httpx2", "time", "random", "secrets", "uuid", "os", "socket", "subprocess", "threading", "logging", "ulid"),
    *("pathlib", "shutil"),
}
NEVER_NAMES = ("manager", "helper", "utils", "handler")
LATE_IMPORTS = {"foldstream/cli.py"}
"""The command line imports a command when it runs: a table of names keeps `--help` fast."""
READS_ENVIRONMENT = {"foldstream/settings.py"} | {
    str(path.relative_to(ROOT)) for path in (ROOT / "foldstream" / "commands").glob("*.py")
}
"""Commands pass os.environ to settings.read; nobody else looks at it."""
MAX_LINES = 400


def modules() -> list[Path]:
    return sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or "", node


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {name_of(path): ast.parse(path.read_text()) for path in modules()}


def test_rooms_import_only_what_they_may(trees: dict[str, ast.Module]) -> None:
    strangers = [
        f"{name} imports {module}"
        for name, tree in trees.items()
        for module, _ in imports(tree)
        if (room := module.partition(".")[0]) in MAY_IMPORT and room not in MAY_IMPORT[name.partition("/")[0]]
    ]
    assert strangers == []


def test_pure_modules_touch_no_world(trees: dict[str, ast.Module]) -> None:
    assert set(PURE) <= set(trees), "a module that was pure has gone"
    impure = [
        f"{name} imports {module}"
        for name in PURE
        for module, _ in imports(trees[name])
        if module.partition(".")[0] in IMPURE_MODULES
    ]
    assert impure == []


def test_pure_modules_ask_no_clock(trees: dict[str, ast.Module]) -> None:
    asked = [
        f"{name}:{node.lineno}"
        for name in PURE
        for node in ast.walk(trees[name])
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}
    ]
    assert asked == []


def test_imports_stand_at_the_top(trees: dict[str, ast.Module]) -> None:
    inside = [
        f"{name}:{node.lineno}"
        for name, tree in trees.items()
        if name not in LATE_IMPORTS
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert inside == []


def test_imports_have_no_cycle(trees: dict[str, ast.Module]) -> None:
    def module_of(name: str) -> str:
        return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    known = {module_of(name) for name in trees}
    graph: dict[str, set[str]] = {}
    for name, tree in trees.items():
        found = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found.add(inner if inner in known else node.module or "")
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[module_of(name)] = (found & known) - {module_of(name)}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in graph[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_only_settings_and_commands_read_the_environment(trees: dict[str, ast.Module]) -> None:
    readers = {
        name
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    }
    # A child process is given an environment; that is not reading a setting.
    assert readers - READS_ENVIRONMENT - CLEANS_ENVIRONMENT == set()


CLEANS_ENVIRONMENT = {"pipeline/builders/command.py", "foldstream/services/process.py"}
"""They choose what a child process gets to see."""


def test_each_file_says_what_it_is(trees: dict[str, ast.Module]) -> None:
    silent = [name for name, tree in trees.items() if not ast.get_docstring(tree)]
    assert silent == []


def test_files_stay_small() -> None:
    big = {name_of(path): count for path in modules() if (count := len(path.read_text().splitlines())) > MAX_LINES}
    assert big == {}


def test_nothing_is_called_manager_or_helper(trees: dict[str, ast.Module]) -> None:
    named = [
        f"{name}: {node.name}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and any(word in node.name.lower() for word in NEVER_NAMES)
    ]
    files = [name for name in trees if any(word in name.lower() for word in NEVER_NAMES)]
    assert named + files == []


def test_broad_excepts_stand_at_named_boundaries(trees: dict[str, ast.Module]) -> None:
    unnamed = []
    for name, tree in trees.items():
        lines = (ROOT / name).read_text().splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or (
                    isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
                )
                reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                if broad and not reraises and "boundary" not in lines[node.lineno - 1]:
                    unnamed.append(f"{name}:{node.lineno}")
    assert unnamed == []


@pytest.mark.req("K-02")
def test_the_named_packages_are_declared_and_used(trees: dict[str, ast.Module]) -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    used = {module.partition(".")[0] for tree in trees.values() for module, _ in imports(tree)}
    for package, module in {
        "starlette": "starlette", "uvicorn": "uvicorn", "sse-starlette": "sse_starlette", "python-socketio": "socketio",
        "redis": "redis", "psycopg": "psycopg", "anyio": "anyio", "orjson": "orjson",
    }.items():  # fmt: skip
        assert f'"{package}' in declared, package
        assert module in used, package
    assert '"pytest-asyncio' in declared
    assert "asyncio_mode" in declared


@pytest.mark.req("K-03")
def test_the_top_level_is_as_promised() -> None:
    promised = ("pyproject.toml", "eventstore", "streaming", "pipeline", "schema.sql", "tests", "examples", "Makefile")
    assert [name for name in promised if not (ROOT / name).exists()] == []


@pytest.mark.req("K-13")
def test_the_server_needs_only_python() -> None:
    foreign = [
        path
        for package in MAY_IMPORT
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".ts", ".go", ".rb", ".rs", ".sh"}
    ]
    assert foreign == []
