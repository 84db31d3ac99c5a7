"""Times and peak memory of one piece of work, measured so that ratios mean something on a shared machine.

Times of several pieces are taken in turns, round by round, in one process, and the best of each is kept: contention
only ever adds. Peak memory is that of a fresh process, read from the kernel (VmHWM), with what was there before taken
off; a warm allocator would hide what a piece of work touches.
"""

import ctypes
import multiprocessing
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def trim_heap() -> None:
    """Give memory that the allocator holds back to the system."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def wait_for_gpu() -> None:
    """Wait for what a GPU, if there is one in use, still has to do."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def time_in_turns(
    pieces: Mapping[Name, Callable[[], object]], rounds: int = 7, clock: Callable[[], float] = time.perf_counter
) -> dict[Name, float]:
    """The best time of each piece in seconds, after one round to warm up; by `time.process_time` as the clock, the time on
    processors, which other work on the machine hardly changes.

    Before each piece the allocator gives back what it holds (`malloc_trim`), so that large tensors come as fresh memory
    for all of them: otherwise a ratio would say which piece found pages that another one had left.
    """
    best = dict.fromkeys(pieces, float("inf"))
    for round_ in range(rounds + 1):
        for name, piece in pieces.items():
            trim_heap()
            wait_for_gpu()
            start = clock()
            piece()
            wait_for_gpu()
            if round_:
                best[name] = min(best[name], clock() - start)
    return best


def _read_status(field: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _measure_peak(make: Callable[[], Callable[[], object]], pipe) -> None:
    import torch

    torch.set_num_threads(2)
    piece = make()
    piece_small = getattr(piece, "warm", None)  # loads libraries and makes thread pools without the real size
    if piece_small is not None:
        piece_small()
    # Memory that the allocator holds back would be used again and hide what the piece of work needs.
    trim_heap()
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = _read_status("VmRSS")
    result = piece()
    pipe.send(_read_status("VmHWM") - before)
    del result


def peak_memory(make: Callable[[], Callable[[], object]]) -> int:
    """Bytes that the piece of work made by `make` adds at its peak, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(False)
    process = context.Process(target=_measure_peak, args=(make, send))
    process.start()
    process.join()
    return receive.recv()
