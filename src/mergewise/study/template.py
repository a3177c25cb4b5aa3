"""The environment that pages are rendered in: strict about names, and escaping what it is given."""

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["page_environment"]


def page_environment() -> Environment:
    """Return an environment over this package's templates, to which a page adds its filters."""
    return Environment(
        loader=PackageLoader("mergewise.study", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
