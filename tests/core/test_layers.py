"""The layout is the architecture: a file imports from its own layer and those above it, and no modules form a circle.

The layers are the list in CONTRIBUTING.md. Every import counts, those inside functions too; `if TYPE_CHECKING` does not.
"""

import ast
import functools
import importlib
import inspect
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import noiselab

PACKAGE = Path(noiselab.__file__).parent
HEAVY = {"transformers", "datasets", "tokenizers", "accelerate", "matplotlib", "tyro", "yaml", "jinja2", "peft"}
NEEDS_TRANSFORMERS = {"networks"}


def listed() -> list[list[str]]:
    """The lines of the list in CONTRIBUTING.md, from the lowest layer to the highest; the last is the shell."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.split("above it in this list")[1].split("```text\n")[1].split("```")[0]
    return [line.split() for line in block.strip().splitlines()]


LAYERS = [layer for line in listed() for layer in line]
SHELL = listed()[-1]
PENDING: set[str] = set()


def sources() -> dict[str, str]:
    """The text of each module, by its name; a package has the name of its folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(("noiselab", *path.relative_to(PACKAGE).with_suffix("").parts))
        found[name.removesuffix(".__init__")] = path.read_text(encoding="utf-8")
    return found


def is_package(name: str, modules: dict[str, str]) -> bool:
    return any(other.startswith(f"{name}.") for other in modules)


def layer_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def import_nodes(node: ast.AST, runs: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import below a node, and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from import_nodes(ast.Module(child.orelse, []), runs)
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, runs
        yield from import_nodes(
            child, runs and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        )


@functools.cache
def imports_of(text: str) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    return list(import_nodes(ast.parse(text)))


def imports(name: str, modules: dict[str, str]) -> Iterator[tuple[str, bool]]:
    """What a module imports, by full name, and whether on import of the module itself."""
    package = is_package(name, modules)
    for node, runs in imports_of(modules[name]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, runs) for alias in node.names)
            continue
        above = name.split(".")[: len(name.split(".")) + package - node.level] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            inside = f"{source}.{alias.name}"
            yield (inside if inside in modules else source), runs


def arrows_up(modules: dict[str, str]) -> list[str]:
    """Imports of a layer that is below one's own in the list."""
    return sorted(
        {
            f"{name} imports {target}"
            for name in modules
            for target, _ in imports(name, modules)
            if layer_of(name) in LAYERS
            and layer_of(target) in LAYERS
            and target.startswith("noiselab.")
            and LAYERS.index(layer_of(target)) > LAYERS.index(layer_of(name))
        }
    )


def circles(modules: dict[str, str]) -> list[str]:
    """Sets of modules that reach each other: what is left when modules that import nothing left are taken away, both ways."""
    edges = {
        name: {t for t, _ in imports(name, modules) if t in modules and t != name and t != "noiselab"}
        for name in modules
    }
    left = set(edges)
    for _ in itertools.count():
        importers = {name for name in left if edges[name] & left}
        imported = {name for name in left if any(name in edges[other] for other in left)}
        if importers & imported == left:
            break
        left = importers & imported
    return sorted(f"{name} imports {target}" for name in left for target in edges[name] & left)


def heavy_imports(modules: dict[str, str]) -> list[str]:
    """Heavy packages that are imported together with a module below the shell."""
    return sorted(
        f"{name} imports {target}"
        for name in modules
        for target, runs in imports(name, modules)
        if runs and target.split(".")[0] in HEAVY and layer_of(name) not in {*SHELL, *NEEDS_TRANSFORMERS}
    )


@pytest.fixture(scope="module")
def modules():
    return sources()


def test_the_list_in_contributing_names_every_layer(modules):
    rooms = {layer_of(name) for name in modules} - {"", "__main__"}
    assert sorted(LAYERS) == sorted(rooms)


def test_no_file_imports_from_a_higher_layer(modules):
    assert arrows_up(modules) == []


def test_no_modules_import_each_other(modules):
    assert circles(modules) == []


def test_nothing_imports_the_top_level_but_commands(modules):
    users = {name for name in modules for target, _ in imports(name, modules) if target == "noiselab"}
    assert {layer_of(name) for name in users} <= {"commands", "__main__"}


def test_heavy_packages_are_imported_by_the_shell_and_by_networks_alone(modules):
    assert heavy_imports(modules) == []


def loaded(program: str, packages: set[str]) -> str:
    """Those of the packages that a program imports."""
    program += f"\nimport sys; print(sorted({packages} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_importing_noiselab_imports_nothing():
    assert loaded("import noiselab", {*HEAVY, "torch"}) == "[]"


def test_the_top_level_loads_no_heavy_package():
    program = "import noiselab\nfor name in {*noiselab.__all__} - {'GiddPipeline', 'Pipeline'}: getattr(noiselab, name)"
    assert loaded(program, HEAVY) == "[]"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["evaluate", "--help"], ["nonsense"], []], ids=" ".join
)
def test_the_overview_of_commands_imports_nothing(arguments):
    program = (
        f"from noiselab.commands.main import main\ntry:\n    main({arguments})\nexcept SystemExit as stop:\n"
        "    assert stop.code in (0, 2)"
    )
    assert loaded(program, {*HEAVY, "torch"}) == "[]"


def test_names_of_the_top_level_are_those_that_type_checkers_see():
    block = next(node for node in ast.parse(sources()["noiselab"]).body if isinstance(node, ast.If))
    seen = {}
    for node in block.body:
        for alias in node.names:
            place = importlib.import_module(f"noiselab.{node.module or alias.name}")
            seen[alias.name] = getattr(place, alias.name) if node.module else place
    assert {name for name in seen if not inspect.ismodule(seen[name])} == set(noiselab.__all__)
    assert all(getattr(noiselab, name) is value for name, value in seen.items())
    assert set(seen) <= set(dir(noiselab)) and not hasattr(noiselab, "nonsense")


# Planted mistakes: source text in place of a module's.

INSIDE = "def f():\n    from {} import {}\n"


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("noiselab.samplers.base", INSIDE.format("..pipeline", "Pipeline")),
        ("noiselab.samplers.base", INSIDE.format("..", "training")),
        ("noiselab.samplers", INSIDE.format("..evaluation.bound", "bound")),
        ("noiselab.times", INSIDE.format("noiselab.samplers", "Sampler")),
        ("noiselab.times", "class A:\n    def f(self):\n        import noiselab.bench.runner\n"),
        ("noiselab.times", "try:\n    from .samplers import base\nexcept ImportError:\n    pass\n"),
    ],
)
def test_an_arrow_up_is_seen(module, planted, modules):
    found = set(arrows_up({**modules, module: modules[module] + "\n" + planted})) - set(arrows_up(modules))
    assert len(found) == 1 and found.pop().startswith(f"{module} imports noiselab.")


def test_what_only_the_type_checker_reads_is_no_arrow(modules):
    planted = "if TYPE_CHECKING:\n    from ..pipeline import Pipeline\n"
    assert arrows_up({**modules, "noiselab.samplers.base": planted}) == arrows_up(modules)


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("noiselab.samplers.base", INSIDE.format(".ancestral", "AncestralSampler")),
        ("noiselab.samplers.base", INSIDE.format(".", "ancestral")),
        ("noiselab.process.base", INSIDE.format(".", "NoiseProcess")),
    ],
)
def test_a_circle_is_seen(module, planted, modules):
    found = circles({**modules, module: modules[module] + "\n" + planted})
    assert any(line.startswith(f"{module} imports ") for line in found)


def test_a_heavy_import_is_seen(modules):
    name = "noiselab.samplers.base"
    assert heavy_imports({**modules, name: "import matplotlib.pyplot\n"}) == [f"{name} imports matplotlib.pyplot"]
    assert heavy_imports({**modules, name: "def f():\n    import matplotlib.pyplot\n"}) == []
