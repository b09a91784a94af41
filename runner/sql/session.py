"""Parameters in what a step sets for its session and names that it lists: `role`, `search_path`, `settings`, `touches`.

These texts are not SQL, but a parameter in them is written as in SQL and quoted as there: `:"name"` and `:'name'` are
one name in a list of names, or the value of a setting. It stands alone between the separators of its list, so that no
value can become more than one name; everywhere else it is an error, never text.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator, Mapping

from runner.sql.params import (
    PARAMETER_NAME,
    Form,
    Reference,
    Scalar,
    TemplateError,
    check_value,
    plain_text,
    quote_identifier,
    quote_name,
)
from runner.sql.qualified import QualifiedName

#: Settings whose value is a list of names, which are quoted one by one (GUC_LIST_QUOTE in PostgreSQL's guc_tables.c).
LISTS = frozenset({"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"})

_PIECE = re.compile(
    r"""(?P<space>\s+)|:'(?P<literal>[^']*)'|:"(?P<identifier>[^"]*)"|"(?:[^"]|"")*"|::|:(?P<bare>[A-Za-z_][A-Za-z0-9_]*)|.""",
    re.DOTALL,
)


class Place(enum.Enum):
    """Where a parameter stands: the characters that separate the names of its list, and what it is called."""

    ROLE = ("", "`role`")
    SEARCH_PATH = (",", "`search_path`")
    TOUCHES = (".", "`touches`")
    SETTING = ("", "a setting")
    LIST_SETTING = (",", "a setting that is a list of names")

    @property
    def separators(self) -> str:
        """The characters between two names."""
        return self.value[0]

    @property
    def is_value(self) -> bool:
        """Say whether the text is a value as SET takes it, not a list of names."""
        return self is Place.SETTING


def place_of_setting(name: str) -> Place:
    """Return what the value of this setting is."""
    return Place.LIST_SETTING if name.lower() in LISTS else Place.SETTING


def named_in(text: str, place: Place, known: Callable[[str], bool]) -> tuple[Reference, ...]:
    """Return the parameters that a text names, in order.

    A colon before a word inside other text names one only if `known` says so: `host:port` is a value like any other.
    TemplateError, with its offset, for a parameter that does not stand alone or has a form that cannot be there.
    """
    return tuple(found for found, _ in _named_in(text, place, known)) if ":" in text else ()


def render_names(text: str, place: Place, values: Mapping[str, Scalar]) -> str:
    """Return a list of names with each parameter as a quoted identifier. TemplateError if a value cannot be a name."""
    return _rendered(text, place, values, quote_identifier)


def render_role(text: str, values: Mapping[str, Scalar]) -> str:
    """Return the name of the role. TemplateError for what is no role's name; `none` would be that of the login."""

    def name(value: str) -> str:
        quote_identifier(value)
        if value == "none":
            raise TemplateError("`none` is no role: PostgreSQL would run the step as the role that has logged in")
        return value

    return _rendered(text, Place.ROLE, values, name)


def render_setting(name: str, text: str, values: Mapping[str, Scalar]) -> str:
    """Return the value of a setting, as set_config takes it. TemplateError if the parameter has none."""
    place = place_of_setting(name)
    return _rendered(text, place, values, quote_identifier if place is Place.LIST_SETTING else _as_it_is)


def _as_it_is(value: str) -> str:
    check_value(value)
    return value


def _rendered(text: str, place: Place, values: Mapping[str, Scalar], quote: Callable[[str], str]) -> str:
    if ":" not in text:
        return text
    parts: list[str] = []
    done = 0
    for reference, start in _named_in(text, place, lambda name: name in values):
        parts += (text[done:start], _value(reference, place, values, quote))
        done = reference.end
    return "".join(parts) + text[done:]


def _value(reference: Reference, place: Place, values: Mapping[str, Scalar], quote: Callable[[str], str]) -> str:
    if reference.name not in values:
        raise TemplateError(f"{reference}: no such parameter", offset=reference.start)
    value = values[reference.name]
    if value is None:
        raise TemplateError(f"{reference}: NULL is not a value here", offset=reference.start)
    if isinstance(value, QualifiedName) and place not in (Place.TOUCHES, Place.SETTING):
        raise TemplateError(f"{reference}: a relation is not one name", offset=reference.start)
    try:
        if place is Place.TOUCHES:
            return quote_name(value)
        return quote(plain_text(value))
    except TemplateError as error:
        raise TemplateError(f"{reference}: {error.message}", offset=reference.start, hint=error.hint) from None


def _named_in(text: str, place: Place, known: Callable[[str], bool]) -> Iterator[tuple[Reference, int]]:
    """Yield each parameter, with where the text begins that it replaces."""
    element: list[re.Match[str]] = []
    for piece in _PIECE.finditer(text):
        if piece["space"] is None and piece.group() in place.separators and piece.group():
            yield from _of_element(element, place, known)
            element = []
        elif piece["space"] is None:
            element.append(piece)
    yield from _of_element(element, place, known)


def _of_element(
    pieces: list[re.Match[str]], place: Place, known: Callable[[str], bool]
) -> Iterator[tuple[Reference, int]]:
    for piece in pieces:
        reference = _reference(piece)
        alone = len(pieces) == 1
        if reference is None or not (alone or reference.form is not Form.BARE or known(reference.name)):
            continue
        if not PARAMETER_NAME.fullmatch(reference.name):
            raise TemplateError(f"{reference} does not name a parameter", offset=reference.start)
        if not alone:
            beside = f", or between {'dots' if place.separators == '.' else 'commas'}" if place.separators else ""
            raise TemplateError(
                f"{reference} is only a part of a {'value' if place.is_value else 'name'}: in {place.value[1]} a "
                f"parameter stands alone{beside}",
                offset=reference.start,
                hint="make the whole text the parameter's value",
            )
        if reference.form is Form.BARE and not place.is_value:
            raise TemplateError(
                f"{reference} is not a name",
                offset=reference.start,
                hint=f'write :"{reference.name}" for an identifier',
            )
        yield reference, piece.start()


def _reference(piece: re.Match[str]) -> Reference | None:
    for group, form in (("literal", Form.LITERAL), ("identifier", Form.IDENTIFIER), ("bare", Form.BARE)):
        name = piece[group]
        if name is not None:
            return Reference(name=name, form=form, start=piece.start(), end=piece.end())
    return None
