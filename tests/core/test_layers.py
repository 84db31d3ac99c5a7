"""The layout is the architecture: a file imports only from layers above it."""

import ast
from pathlib import Path

import noiselab

ROOT = Path(noiselab.__file__).parent
LAYERS = [
    "typing",
    "exact",
    "categorical",
    "files",
    "schedules",
    "mixing",
    "process",
    "processes",
    "parametrization",
    "elbo",
    "times",
    "objectives",
    "denoisers",
    "likelihood",
    "samplers",
    "correctors",
    "revisions",
    "tracing",
    "networks",
    "autoregressive",
    "alignment",
    "testing",
    "plotting",
    "data",
    "tasks",
    "dialogue",
    "training",
    "evaluation",
    "bench",
    "pipeline",
    "commands",
]
HEAVY = {"transformers", "datasets", "tokenizers", "accelerate", "matplotlib", "tyro", "yaml", "jinja2", "peft"}
SHELL = LAYERS.index("data")
NETWORKS = {"dit.py", "huggingface.py", "masked_lm.py", "masked_lm_files.py"}


def imports(path):
    """(package-relative dotted name or None, top-level name or None) of every import that runs with the module."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.relative_to(ROOT).parts[: -node.level]
            yield ".".join((*base, *(node.module or "").split("."))).strip("."), None
        elif isinstance(node, ast.ImportFrom):
            yield None, (node.module or "").split(".")[0]
        elif isinstance(node, ast.Import):
            yield from ((None, alias.name.split(".")[0]) for alias in node.names)


def test_every_file_has_a_layer_and_imports_only_from_those_above():
    for path in ROOT.rglob("*.py"):
        layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if layer in ("__init__", "__main__"):
            continue
        assert layer in LAYERS, f"{path.name}: a new layer must be given its place"
        for inside, outside in imports(path):
            if inside:
                above = inside.split(".")[0]
                assert LAYERS.index(above) <= LAYERS.index(layer), f"{path.relative_to(ROOT)} imports {inside}"
            elif LAYERS.index(layer) < SHELL and path.name not in NETWORKS:
                assert outside not in HEAVY, f"{path.relative_to(ROOT)} imports {outside}"
