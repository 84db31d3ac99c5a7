"""Settings of all tests. The import hook that checks shapes is switched on in pyproject.toml."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

# Two workers share two cores; more threads than cores make every small operation wait.
torch.set_num_threads(1)
settings.register_profile("noiselab", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("noiselab")


@pytest.fixture
def unchecked():
    """Shape checks off: they read thread-local state, which torch.compile cannot trace."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
