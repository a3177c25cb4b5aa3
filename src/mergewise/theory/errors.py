"""The fault that a forecast adds."""

from mergewise.errors import MergewiseError

__all__ = ["ForecastError"]


class ForecastError(MergewiseError):
    """Nothing can be forecast from what was measured, or not what was asked for."""
