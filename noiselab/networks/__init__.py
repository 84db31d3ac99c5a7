"""Networks: the published GIDD architecture, its key/value caches, and adapters to models of transformers."""
