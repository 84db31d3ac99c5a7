"""The small models of the tests of pipelines and of training."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "pipeline"), str(Path(__file__).parents[1] / "training")]
