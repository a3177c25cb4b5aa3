"""The one kind of fault that a study adds."""

from mergewise.errors import MergewiseError

__all__ = ["StudyError"]


class StudyError(MergewiseError):
    """A study cannot be run, or its results cannot be summed up, as asked."""
