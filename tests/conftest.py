"""Settings of all tests, which run with the shapes of all signatures checked."""

import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import datasets  # noqa: F401
import pytest
import torch
import transformers.modeling_utils
import transformers.trainer  # noqa: F401
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# As for scripts: a recipe imports the package of its study and what all recipes share.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "recipes")]

import type_checks  # noqa: E402

# The packages of the studies are checked like the library.
STUDIES = [
    folder.name for folder in (Path(__file__).parents[1] / "recipes").iterdir() if (folder / "__init__.py").exists()
]
type_checks.install(["noiselab", *STUDIES])

# Two workers share two cores; more threads than cores make every small operation wait.
torch.set_num_threads(1)
settings.register_profile("noiselab", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("noiselab")


def pytest_runtest_setup():
    type_checks.next_test()


def pytest_collection_modifyitems(items):
    for item in items:
        rest = [pattern for mark in item.iter_markers("long_for") for pattern in mark.args]
        if any(fnmatchcase(item.callspec.id, pattern) for pattern in rest):
            item.add_marker(pytest.mark.long)
        elif "/docs/" in item.nodeid:
            item.add_marker(pytest.mark.docs)


@pytest.fixture
def unchecked():
    """Shape checks off: they read thread-local state, which torch.compile cannot trace."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def compiled_anew():
    """What a test compiled is forgotten: dynamo stops compiling a function that was compiled for too many shapes."""
    yield
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.utils.counters:
        dynamo.reset()
        dynamo.utils.counters.clear()
