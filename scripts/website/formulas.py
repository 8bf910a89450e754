"""Formulas of pages as MathML."""

import html
import re
from typing import Final

from latex2mathml.converter import convert

_MARKED: Final = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def as_mathml(page: str) -> str:
    """Replace the marked LaTeX of a page in HTML by MathML."""

    def replaced(found: re.Match[str]) -> str:
        tag, shown = found["tag"], "block" if found["open"] == "[" else "inline"
        formula = convert(html.unescape(found["latex"]).strip(), display=shown)
        return f'<{tag} class="formula">{formula}</{tag}>'

    return _MARKED.sub(replaced, page)
