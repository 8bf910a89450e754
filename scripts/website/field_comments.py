"""Extension of griffe: the comment behind a field without a docstring (its axes and its unit) is its description."""

import re
from typing import Any, Final

import griffe

_COMMENT: Final = re.compile(r"\s#\s(?P<said>\S.*)$")


class FieldComments(griffe.Extension):
    """Fields of named tuples state axes and units in a comment."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Take the comment of an attribute of a class as its docstring."""
        found = _COMMENT.search(attr.source.rstrip()) if attr.parent is not None and attr.parent.is_class else None
        if attr.docstring is None and found is not None:
            attr.docstring = griffe.Docstring(found["said"], parent=attr, lineno=attr.lineno)
