"""`noiselab train`: run a recipe, either your own script or one of the project's."""

import runpy
import sys
from pathlib import Path

HELP = """usage: noiselab train RECIPE PRESET [--any-field value ...]

RECIPE is a script such as recipes/gidd_plus.py, or the name of one in ./recipes or here. Later arguments are passed to it:
`noiselab train gidd_plus --help` lists its presets, `noiselab train gidd_plus demo --help` all fields of one."""


def main(arguments: list[str]) -> None:
    """Run a recipe with the remaining arguments.

    **Raises:** `ValueError` if the script does not exist.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    name, *rest = arguments
    places = [Path(name), Path("recipes") / f"{name}.py", Path(f"{name}.py")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValueError(
            f"a recipe must be a script or the name of one in ./recipes; nothing found at {list(map(str, places))}"
        )
    sys.argv = [str(found), *rest]
    sys.path.insert(0, str(found.parent))  # as for any script, so that a recipe can import another
    runpy.run_path(str(found), run_name="__main__")
