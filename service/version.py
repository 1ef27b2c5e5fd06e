"""The version of this software."""

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """The installed version; `unknown` where it runs from a folder that was never installed."""
    try:
        return version("knet-serve")
    except PackageNotFoundError:
        return "unknown"
