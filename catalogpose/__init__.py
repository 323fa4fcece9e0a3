"""Re-pose product photos overnight: a manifest in, pictures with provenance out."""

__version__ = "0.1.0"
