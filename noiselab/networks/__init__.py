"""Networks: the published GIDD architecture, its key/value caches, and adapters for transformers models."""
