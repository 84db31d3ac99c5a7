"""The benches: samplers in a world whose law is known, and forced errors for everything that corrects itself."""

from .forced_errors import (
    ForcedErrorRow,
    ForcedErrors,
    force_errors,
    measure_forced_errors,
    plot_forced_errors,
    replace_tokens,
    tabulate_forced_errors,
)
from .world import World

__all__ = [
    "ForcedErrorRow",
    "ForcedErrors",
    "World",
    "force_errors",
    "measure_forced_errors",
    "plot_forced_errors",
    "replace_tokens",
    "tabulate_forced_errors",
]
