"""The one exception this package raises."""

from mergewise.errors import MergewiseError


class ZooError(MergewiseError):
    """A package, a data file or a cache entry of the zoo is not as it should be."""
