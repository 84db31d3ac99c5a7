"""Types of options that may be left out; their help says what happens then."""

from pathlib import Path
from typing import Annotated

import tyro

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
OptionalText = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
