"""``mergewise demo``."""

__all__ = ["demo"]


def demo() -> None:
    """Merge real experts with five methods, score every merge, and write one report."""
