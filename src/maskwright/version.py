"""The version: the one place that states it. The package's metadata take it from here."""

__version__ = "0.1.0"
