"""The one exception this package raises."""

from mergewise.errors import MergewiseError


class ExamplesError(MergewiseError):
    """Examples are not what was asked for, or do not fit the model that is to read them."""
