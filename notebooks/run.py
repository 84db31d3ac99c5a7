"""Execute every notebook from a clean kernel, in a copy; with --write, store the outputs in place.

python notebooks/run.py            # fails if any cell does
python notebooks/run.py --write    # before a commit that changes a notebook
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parent


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs, run in an empty folder."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": folder}})
        client.execute()
    return notebook


def main() -> int:
    """Run all notebooks, or those that are named; return 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(FOLDER.glob("*.ipynb")))
    parser.add_argument("--write", action="store_true", help="store the outputs in the notebooks")
    options = parser.parse_args()
    failed = 0
    for path in options.notebooks:
        start = time.monotonic()
        try:
            notebook = execute(path)
        except CellExecutionError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            failed = 1
            continue
        print(f"{path.name}: {time.monotonic() - start:.1f} s")
        if options.write:
            temporary = path.with_suffix(".tmp")
            nbformat.write(notebook, temporary)
            temporary.replace(path)
    return failed


if __name__ == "__main__":
    sys.exit(main())
