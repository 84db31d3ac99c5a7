"""How the processes that `torchrun` has started find each other, and what is said if some of them are not there."""

import os
import sys
import time
import uuid
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from .failures import ProcessError, answers, have_met

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
        meeting = _invite(store, waiting) if rank == 0 else _ask(store, waiting)
        # Processes that torchrun starts again share the store of those before, and would look for these at their addresses.
        store = dist.PrefixStore(meeting, store)
        have_met(meeting)
    except dist.DistError as error:
        text = str(error).splitlines()[0]
        raise ProcessError(f"{waiting.who()} got no answer from the others: {text} ({ADVICE})") from error
    return store, rank, world


def _invite(store: Any, waiting: "_Waiting") -> str:
    """The name of this meeting, which the first process gives to all others that ask for it.

    The number of restarts that torchrun tells its processes is no such name: each machine counts its own. Nor does one process
    alone know which of the others are left over in the store from an earlier start, for it is theirs to ask again.
    """
    meeting, answered = f"meeting {uuid.uuid4().hex}", dict[int, bytes]()
    others = range(1, waiting.world)
    while absent := [other for other in others if not store.check([f"{meeting} has {other}"])]:
        for other in absent:
            if store.check([f"asks {other}"]) and (asked := store.get(f"asks {other}")) != answered.get(other):
                answered[other] = asked
                store.set(f"answer to {asked.decode()}", meeting)
        waiting.step(f"no answer from {_listed(absent)}")
    store.set(f"{meeting} has all", "")
    return meeting


def _ask(store: Any, waiting: "_Waiting") -> str:
    """The name of this meeting, from the first process."""
    own = uuid.uuid4().hex
    store.set(f"asks {waiting.rank}", own)
    while not store.check([f"answer to {own}"]):
        waiting.step("no answer from process 0")
    meeting = str(store.get(f"answer to {own}").decode())
    store.set(f"{meeting} has {waiting.rank}", "")
    while not store.check([f"{meeting} has all"]):
        others = (other for other in range(1, waiting.world) if not store.check([f"{meeting} has {other}"]))
        waiting.step(f"no answer from {_listed([*others] or [0])}")
    return meeting


def _listed(ranks: list[int]) -> str:
    return f"process {', '.join(map(str, ranks[:8]))}{' ...' if len(ranks) > 8 else ''}"


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
