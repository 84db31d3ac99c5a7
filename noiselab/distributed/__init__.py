"""Several processes that divide the work of one call."""

from .failures import ProcessError, ending_together
from .messages import barrier, broadcast, parallel, total
from .processes import Processes, join_processes, require_processes
from .sharded import is_sharded, reshard

__all__ = [
    "ProcessError",
    "Processes",
    "barrier",
    "broadcast",
    "ending_together",
    "is_sharded",
    "join_processes",
    "parallel",
    "require_processes",
    "reshard",
    "total",
]
