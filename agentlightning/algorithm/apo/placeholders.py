"""The blanks of a prompt template, which no edit may add or lose."""

from __future__ import annotations

from collections.abc import Iterator
from string import Formatter

from agentlightning.types import PromptTemplate

SYNTAX = {
    "f-string": "{name} marks a blank. Every other brace of the text is doubled: {{ and }}.",
    "jinja": "{{ name }} marks a blank; it is a Jinja template.",
    "poml": "<let>, {{ name }} and the like fill blanks; it is a POML document.",
}
"""How to write a template, for each engine."""


def find_placeholders(prompt: PromptTemplate) -> frozenset[str] | None:
    """Returns the names that the template must be given; None if that cannot be told.

    Raises:
        ValueError: The engine cannot read the template.
    """
    if prompt.engine == "f-string":
        return frozenset(_fields(prompt.template))
    if prompt.engine == "jinja":
        return _jinja_names(prompt.template)
    return None


def _fields(template: str) -> Iterator[str]:
    for _, field, spec, _ in Formatter().parse(template):
        if field is None:
            continue
        name = field.partition(".")[0].partition("[")[0]
        if not name.isidentifier():
            raise ValueError(f"{{{field}}} names no blank; braces that mark none must be doubled")
        yield name
        yield from _fields(spec or "")


def _jinja_names(template: str) -> frozenset[str] | None:
    try:
        from jinja2 import Environment, TemplateSyntaxError, meta
    except ImportError:
        return None
    try:
        return frozenset(meta.find_undeclared_variables(Environment().parse(template)))
    except TemplateSyntaxError as error:
        raise ValueError(f"no Jinja template: {error}") from error
