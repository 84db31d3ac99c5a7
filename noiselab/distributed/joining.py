"""How the processes that `torchrun` has started find each other, and what is said if some of them are not there."""

import os
import sys
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from .failures import ProcessError, answers

JOINING = 600.0
"""Seconds in which all processes must have come."""
NOTICE = 15.0
"""Seconds after which a process that waits says so."""
NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ADVICE = "a script that torchrun has not started must not have WORLD_SIZE in its environment"


def numbers() -> tuple[int, int]:
    """The index of this process and the number of processes, from the environment.

    **Raises:** `ValueError` if they are no numbers, or do not fit.
    """
    world, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
    if world == 1:
        return 0, 1  # whatever is left of another start
    if not 0 <= rank < world:
        raise ValueError(f"RANK must be below WORLD_SIZE, which torchrun sets; got RANK={rank}, WORLD_SIZE={world}")
    return rank, world


def meet() -> tuple[Any, int, int]:
    """Wait until all processes are there.

    **Returns:** the store in which processes leave messages, the index of this process and the number of processes.

    **Raises:** `ValueError` if the environment is not that of `torchrun`; `ProcessError`, with the numbers of those that have
    not come after `JOINING` seconds.
    """
    rank, world = numbers()
    missing = [name for name in NAMES if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"WORLD_SIZE={world} says that there are {world} processes, but {', '.join(missing)} is not set: start the script "
            f"with torchrun, or unset WORLD_SIZE ({ADVICE})"
        )
    waiting = _Waiting(rank, world)
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    while not serves and not answers(waiting.address, waiting.port):
        waiting.step("nobody answers")
    try:
        store: Any = dist.TCPStore(
            waiting.address,
            waiting.port,
            world,
            serves,
            timedelta(minutes=30),
            wait_for_workers=False,
            multi_tenant=True,
        )
        # Processes that torchrun starts again share the store of those before, and would look for these at their addresses.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        store.set(f"here {rank}", "")
        while absent := [other for other in range(world) if not store.check([f"here {other}"])]:
            waiting.step(f"no answer from process {', '.join(map(str, absent[:8]))}{' ...' if len(absent) > 8 else ''}")
    except dist.DistError as error:
        text = str(error).splitlines()[0]
        raise ProcessError(f"{waiting.who()} got no answer from the others: {text} ({ADVICE})") from error
    return store, rank, world


class _Waiting:
    """A process that waits for others: it says so after a while, and ends some time later."""

    def __init__(self, rank: int, world: int):
        self.rank, self.world = rank, world
        self.address, self.port = os.environ["MASTER_ADDR"], _number("MASTER_PORT", 0)
        if not 0 <= self.port < 2**16:
            raise ValueError(f"MASTER_PORT must be the number of a port, which torchrun sets; got {self.port}")
        self.begun, self.noticed = time.monotonic(), False

    def who(self) -> str:
        """Describe this process."""
        return f"process {self.rank} of {self.world}, at {self.address}:{self.port},"

    def step(self, why: str) -> None:
        """Wait a moment longer. An interruption from the keyboard ends it."""
        passed = time.monotonic() - self.begun
        if passed > JOINING:
            raise ProcessError(
                f"{self.who()} got no answer from the others within {JOINING / 60:g} minutes: {why} ({ADVICE}; processes that "
                "come later than others must call join_processes before what takes so long)"
            )
        if passed > NOTICE and not self.noticed:
            self.noticed = True
            print(f"{self.who()} waits for the others: {why} ({ADVICE})", file=sys.stderr, flush=True)
        time.sleep(min(0.05 + passed / 50, 1))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError as error:
        raise ValueError(f"{name} must be a number, which torchrun sets; got {text!r}") from error
