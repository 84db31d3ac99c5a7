"""A compiler that is at hand builds the library once; it is kept in the user's cache folder, and loaded from there."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from ...files import new_file

SWITCH = "NOISELAB_NATIVE"
"""The environment variable that says whether the library is used: "0" for never, "1" for an error where it cannot be."""
SOURCE = Path(__file__).with_name("rows.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", "-fopenmp-simd", "-fno-math-errno")
WIDE = "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"
LIMIT = 120
"""Seconds after which a compiler is given up; it takes two."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled sums, from the cache or built now; `None` where they are switched off or cannot be built.

    **Raises:** `ValueError` if the environment demands them and they cannot be built, with the compiler's words.
    """
    switch = os.environ.get(SWITCH, "")
    if switch not in ("", "0", "1"):
        raise ValueError(f"the environment variable {SWITCH} must be 0, 1 or not set; got {switch!r}")
    if switch == "0":
        return None
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        if switch == "1":
            words = getattr(error, "stderr", None) or error
            raise ValueError(f"{SWITCH}=1 demands the compiled loss, which cannot be built: {words}") from error
        return None


def instructions() -> tuple[str, ...]:
    """The flags for the instructions that PyTorch itself uses on this processor."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability.startswith("AVX512"):
        return WIDE
    return ("-mfma", "-mavx2") if capability.startswith("AVX2") else ()


def cache_folder() -> Path:
    """Where compiled libraries are kept: in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "noiselab"


def _built() -> Path:
    """The path of the library, which is compiled to a temporary name if it does not exist."""
    if sys.platform == "win32":
        raise ValueError("no build for this system")
    flags = (*FLAGS, *instructions())
    # A folder can be shared by machines of several kinds; the name says for which this one is.
    key = hashlib.sha256(SOURCE.read_bytes() + repr((flags, os.uname().machine)).encode()).hexdigest()[:16]
    path = cache_folder() / f"rows-{key}.so"
    if not path.exists():
        compiler = _compiler()
        with new_file(path) as temporary:
            command = [compiler, *flags, str(SOURCE), "-o", str(temporary)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT)
    if path.stat().st_uid != os.getuid():
        raise ValueError(f"{path} belongs to another user")
    return path


def _compiler() -> str:
    for name in (os.environ.get("CXX", ""), *COMPILERS):
        if name and (found := shutil.which(name)):
            return found
    raise ValueError(f"there is no compiler: neither $CXX nor {', '.join(COMPILERS)} is a program")
