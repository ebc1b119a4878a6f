"""Who may import whom, what an import costs, and how large things may become.

Read from the source by AST, so that a new file is held to the rules without being named here.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("bot", "generator", "storage", "training", "benchmarks")
FILES = sorted(
    path for room in ROOMS for path in (ROOT / room).rglob("*.py") if (ROOT / room).is_dir()
)
SHOWN = [str(path.relative_to(ROOT)) for path in FILES]

TENSORS = frozenset(
    ("torch", "diffusers", "transformers", "accelerate", "safetensors", "tokenizers", "numpy")
)
MAX_LINES, MAX_FUNCTION_LINES = 400, 60
LONGER_FUNCTIONS = {"generator/pipeline.py:generate": 100}


def name_of(path: Path) -> str:
    """The dotted name of a module: bot.playground.api."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        is_for_types = (
            isinstance(child, ast.If)
            and isinstance(child.test, ast.Name)
            and child.test.id == "TYPE_CHECKING"
        )
        if not is_for_types:
            yield child
            yield from running_nodes(child)


def imports_of(path: Path) -> Iterator[str]:
    """Every module that the file imports when it runs, wherever in it, relative ones resolved."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in running_nodes(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def imported_rooms(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports_of(path)}


def files_of(room: str) -> list[Path]:
    return [path for path in FILES if path.relative_to(ROOT).parts[0] == room]


def third_party(path: Path) -> set[str]:
    return imported_rooms(path) - set(sys.stdlib_module_names) - set(ROOMS)


# ---- who may import whom


def test_the_rules_see_the_project() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {"bot", "generator", "storage"}
    assert "generator.video" in set(imports_of(ROOT / "generator" / "pipeline.py"))


@pytest.mark.parametrize("path", files_of("bot"), ids=name_of)
def test_the_bot_knows_the_protocol_and_no_tensors(path: Path) -> None:
    assert not imported_rooms(path) & TENSORS
    own = {name for name in imports_of(path) if name.split(".")[0] in ("generator", "training")}
    assert own <= {"generator.protocol"}


@pytest.mark.parametrize("path", files_of("storage"), ids=name_of)
def test_storage_knows_sqlite_and_the_protocol(path: Path) -> None:
    assert third_party(path) <= {"aiosqlite", "msgspec"}
    own = {name for name in imports_of(path) if name.split(".")[0] in ("generator", "bot")}
    assert own <= {"generator.protocol"}


@pytest.mark.parametrize("path", files_of("generator"), ids=name_of)
def test_the_generator_knows_neither_bot_nor_storage_nor_discord(path: Path) -> None:
    known = imported_rooms(path)
    assert not known & {"bot", "storage", "training", "discord", "aiosqlite", "aiohttp"}


def test_the_protocol_needs_msgspec_only() -> None:
    path = ROOT / "generator" / "protocol.py"
    assert third_party(path) == {"msgspec"}
    assert not {name for name in imports_of(path) if name.startswith("generator")}


def test_sql_is_written_in_storage_only() -> None:
    for path in FILES:
        if imported_rooms(path) & {"sqlite3", "aiosqlite"}:
            assert path.relative_to(ROOT).parts[0] in ("storage", "benchmarks"), path


@pytest.mark.parametrize("room", ["bot", "generator", "storage"])
def test_a_room_has_no_circles(room: str) -> None:
    graph = {
        name_of(path): {
            name for name in imports_of(path) if name.startswith(room) and name != name_of(path)
        }
        for path in files_of(room)
        if path.name != "__init__.py"
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"These import each other: {' → '.join(error.args[1])}")


def reached_from(module: str) -> set[str]:
    """Every module of the project behind a module."""
    found: set[str] = set()
    open_ends = [module]
    while open_ends:
        for name in imports_of(MODULES[open_ends.pop()]):
            if name in MODULES and name not in found:
                found.add(name)
                open_ends.append(name)
    return found


@pytest.mark.parametrize(
    ("below", "above"),
    [
        # Numbers and pixels do not know where weights lie or what a job is.
        ("generator.sampler", {"placement", "models", "pipeline", "sections", "conditions"}),
        ("generator.sections", {"placement", "models", "pipeline", "sampler", "conditions"}),
        ("generator.video", {"placement", "models", "pipeline", "encoders"}),
        ("generator.encoders", {"placement", "models", "pipeline", "video"}),
        ("generator.step_cache", {"placement", "pipeline", "sampler", "sections"}),
        # Weights do not know what they are used for.
        ("generator.models", {"placement", "pipeline", "conditions", "encoders", "video"}),
        ("generator.placement", {"pipeline", "conditions", "encoders", "video", "sections"}),
        # The pipeline does not know who asked.
        ("generator.pipeline", {"worker", "once", "__main__", "models_cli"}),
    ],
)
def test_the_generator_knows_one_way_only(below: str, above: set[str]) -> None:
    assert not reached_from(below) & {f"generator.{name}" for name in above}


# ---- what an import costs


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WITHOUT_TENSORS = f"""
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(TENSORS)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_the_whole_bot_imports_where_torch_is_not_installed() -> None:
    names = [name for name in MODULES if name.split(".")[0] in ("bot", "storage")]
    names = [name for name in names if not name.endswith("__main__")]
    script = WITHOUT_TENSORS + f"import importlib\nfor n in {names}: importlib.import_module(n)"
    run(script + "\nimport bot.__main__")


def test_the_bots_help_works_where_torch_is_not_installed() -> None:
    script = WITHOUT_TENSORS + "import runpy\nsys.argv = ['framepack-bot', '--help']\n"
    assert "usage: framepack-bot" in run(script + "runpy.run_module('bot', run_name='__main__')")


def test_a_generator_without_torch_says_what_to_install() -> None:
    script = WITHOUT_TENSORS + "from generator.__main__ import main\nprint(main(['serve']))"
    out = run(script)
    assert '"type":"broken"' in out
    assert "pip install" in out


def test_importing_the_generator_pulls_in_nothing() -> None:
    heavy = sorted(TENSORS | {"PIL", "imageio_ffmpeg", "discord", "aiohttp"})
    script = "import sys, generator\nfirst = set(sys.modules)\nimport generator.protocol\n"
    script += f"print(sorted(set(sys.modules) & set({heavy})), 'msgspec' in first)"
    assert run(script).strip() == "[] False"


# ---- how large things may become


@pytest.mark.parametrize("path", FILES, ids=SHOWN)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            place = f"{path.relative_to(ROOT).as_posix()}:{node.name}"
            assert length <= LONGER_FUNCTIONS.get(place, MAX_FUNCTION_LINES), place


@pytest.mark.parametrize("path", FILES, ids=SHOWN)
def test_each_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text("utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), path


@pytest.mark.parametrize(
    "word", ["/work/", "FRAMEPACK.md", "DESIGN.md", "ANCHORS.md", "farm-", "duplicates "]
)
def test_the_project_names_nothing_of_the_machine_it_was_made_on(word: str) -> None:
    kinds = {".py", ".md", ".toml", ".txt", ".sql", ".json", ".html", ".js"}
    places = [*ROOMS, "tests", "docs", "examples", ".ci"]
    files = [path for place in places for path in (ROOT / place).rglob("*") if path.is_file()]
    for path in [*files, *(path for path in ROOT.iterdir() if path.is_file())]:
        if (path.suffix in kinds or path.name in ("Makefile", "run")) and path != Path(__file__):
            assert word not in path.read_text("utf-8", errors="replace"), path
