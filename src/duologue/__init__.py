"""A self-hosted server for private, one-to-one messaging that loses nothing."""

__version__ = "0.1.0"
