"""Types of options: those that may be left out, whose help says what happens then, and those that several commands share."""

from pathlib import Path
from typing import Annotated

import tyro

OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
OptionalText = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]

# Shared by commands, with their help.

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Device = Annotated[OptionalText, tyro.conf.arg(help="cpu, cuda, ...; by default a GPU if available")]
Dtype = Annotated[OptionalText, tyro.conf.arg(help="dtype of the network's arithmetic, such as bfloat16")]

# Results: `report_results` prints and writes them.
PrintJson = Annotated[bool, tyro.conf.arg(help="print JSON instead of text")]
JsonFile = Annotated[OptionalPath, tyro.conf.arg(help="output file for JSON")]

# The noise of a bound, and what it is computed on: `text_scores` reads them.
Repeats = Annotated[int, tyro.conf.arg(help="number of random times at which each window is noised")]
Nodes = Annotated[
    OptionalInt, tyro.conf.arg(help="number of fixed times, the same for all windows, instead of random times")
]
Low = Annotated[OptionalFloat, tyro.conf.arg(help="the smallest time; by default 1e-4")]
WindowsAtOnce = Annotated[int, tyro.conf.arg(help="windows per batch, of which each process takes one at a time")]

# Texts that are generated or corrected.
TextsFile = Annotated[
    OptionalPath,
    tyro.conf.arg(help="output file for JSON Lines, written text by text; by default they are printed"),
]
TextSeed = Annotated[int, tyro.conf.arg(help="random seed; each text has random numbers of its own")]
