"""The transformers that this folder works with: importing this is an ImportError where it is missing or older."""

from importlib.metadata import PackageNotFoundError, version

OLDEST = (5, 3)


def check() -> None:
    """ImportError unless transformers is installed, and new enough."""
    install = f"needs transformers {'.'.join(map(str, OLDEST))} or later; run: pip install 'qwartet[hf]'"
    try:
        found = version("transformers")
    except PackageNotFoundError:
        raise ImportError(f"qwartet.hf {install}") from None
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        raise ImportError(f"transformers is {found}, but qwartet.hf {install}")


check()
