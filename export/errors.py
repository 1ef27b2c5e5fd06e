"""Errors of the exporter."""


class ExportError(Exception):
    """The graph cannot be made, or is not what was promised."""
