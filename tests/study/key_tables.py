"""Tables of keys in the docs, and the schemas that they must tell of."""

import json
import re
import typing
from pathlib import Path

from pydantic import BaseModel

DOCS = Path(__file__).parents[2] / "docs"


def table_of(name, section=""):
    """Return the defaults in a page's table of keys, the first after the heading of a section, by key."""
    text = (DOCS / name).read_text("utf-8").partition(section)[2] if section else (DOCS / name).read_text("utf-8")
    table = text.partition("\n| key |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([^`]+)` \| .+ \| (.+) \| .+ \|$", table, re.MULTILINE)
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def keys_of(schema, prefix=""):
    """Yield all that a schema takes, as (dotted key, field); NAME stands for any name."""
    for name, field in schema.model_fields.items():
        parts = [field.annotation, *typing.get_args(field.annotation)]
        nested = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
        if nested:
            of_any_name = ".NAME" if typing.get_origin(field.annotation) is dict else ""
            yield from keys_of(nested[0], f"{prefix}{name}{of_any_name}.")
        else:
            yield f"{prefix}{name}", field


def default_of(field):
    """Return a field's default as the tables have it."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return f"`{default if isinstance(default, str) and default else json.dumps(default)}`"
