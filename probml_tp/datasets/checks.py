"""The check that the generators of this package share."""

from __future__ import annotations

__all__ = ["checked_seed"]


def checked_seed(seed: int) -> int:
    """Return ``seed`` if torch, NumPy and scikit-learn all accept it.

    Args:
        seed: an integer in [0, 2**32).

    Returns:
        The seed.

    Raises:
        ValueError: it is not an integer or lies outside of that range.

    Example:
        >>> checked_seed(3)
        3
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(
            f"seed must be an integer in [0, 2**32); got {seed!r}. Pass for example 0."
        )
    return seed
