"""The benches: samplers in a world whose law is known, and forced errors for everything that corrects itself."""

from .corrections import (
    CorrectionMeasures,
    CorrectionSummary,
    LawError,
    measure_correction,
    measure_law,
    summarize_corrections,
    tabulate_corrections,
)
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
    "CorrectionMeasures",
    "CorrectionSummary",
    "ForcedErrorRow",
    "ForcedErrors",
    "LawError",
    "World",
    "force_errors",
    "measure_correction",
    "measure_forced_errors",
    "measure_law",
    "plot_forced_errors",
    "replace_tokens",
    "summarize_corrections",
    "tabulate_corrections",
    "tabulate_forced_errors",
]
