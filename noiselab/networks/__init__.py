"""Networks: the published GIDD architecture, its key/value caches, adapters for transformers models, and published formats."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .published.loading import load_network

__all__ = ["load_network"]


def __getattr__(name: str) -> Any:
    # Imported when it is used: the formats need transformers, of which importing a package must load nothing.
    if name == "load_network":
        from .published.loading import load_network

        return load_network
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
