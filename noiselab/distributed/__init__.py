"""Several processes that divide the work of one call."""

from .messages import barrier, broadcast, parallel, total
from .processes import ProcessError, Processes, join_processes
from .sharded import is_sharded, reshard

__all__ = [
    "ProcessError",
    "Processes",
    "barrier",
    "broadcast",
    "is_sharded",
    "join_processes",
    "parallel",
    "reshard",
    "total",
]
