"""Parameters in SQL, in psql's own forms: `:'name'`, `:"name"` and bare `:name`.

A value never becomes SQL: it is quoted, or it is a number, and it is set apart from its neighbours so that PostgreSQL's
scanner sees exactly one value where the reference stood. PostgreSQL's scanner finds the
references, not a regular expression, so strings, comments, dollar quotes, casts and `:=` are never changed.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache

from runner.errors import JobplanError
from runner.sql.qualified_names import MAX_NAME_BYTES, QualifiedName, in_double_quotes
from runner.sql.tokens import AroundColon, ScanError, Token, TokenKind, around_colons, check_characters, tokenize
from runner.structs import Struct

#: What a parameter can be. A number may also be a str that holds its exact decimal form.
Scalar = str | int | float | bool | Decimal | None


_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
_BARE_NAME = re.compile(_WORD)
#: The names that a parameter may have, with the columns of an item.
PARAMETER_NAME = re.compile(rf"{_WORD}(?:\.{_WORD})*")
_DOT_NAME = re.compile(rf"\.{_WORD}")
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

#: After these a value is a token of its own without a space. Everything else gets one: `E` would turn a string into an
#: escape string, `1` would swallow digits, `'` and `"` would be read as doubled quotes.
SETS_APART = frozenset(" \t\n\r\f\v(,[=<>;")

_COLON_HINT = "If the colon does not introduce a parameter, write a space after it."


class Listed(Struct, frozen=True):
    """Several values for one name: in SQL they stand one after the other, with commas between them."""

    values: tuple[Scalar, ...]


#: What names in SQL stand for.
Values = Mapping[str, Scalar | Listed]


class Form(enum.Enum):
    """How a reference is written, and so what its value becomes."""

    LITERAL = "'"
    IDENTIFIER = '"'
    BARE = ""


class Reference(Struct, frozen=True):
    """A parameter that a SQL text names; `start` and `end` count characters from 0, `end` is past the last one."""

    name: str
    form: Form
    start: int
    end: int

    def __str__(self) -> str:
        return f":{self.form.value}{self.name}{self.form.value}"


class TemplateError(JobplanError):
    """SQL text with parameters cannot be scanned, or a value cannot stand where it is named.

    `offset` counts characters from 0 in the text, and is 0 where there is no text (`quote_literal`).
    """

    def __init__(self, message: str, *, offset: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.offset = offset


def references(text: str) -> tuple[Reference, ...]:
    """Return every parameter that `text` names, in order.

    TemplateError if the text cannot be scanned, if what follows a colon is not a name, or if a `:'name'` stands beside
    a string constant: over a line break PostgreSQL would read the two as one.
    """
    # Casts are by far the most common colons; without any other there is nothing for the scanner to find.
    return _references(text) if ":" in text.replace("::", "") else ()


@lru_cache(maxsize=4096)
def _references(text: str) -> tuple[Reference, ...]:
    """Find them; cached, because a text is read and checked with its plan, and rendered many times."""
    try:
        return tuple(_reference(text, around) for around in around_colons(text) if _is_name(around.name))
    except ScanError as error:
        raise TemplateError(error.message, offset=error.offset) from None


def in_brackets(text: str, reference: Reference) -> bool:
    """Return whether `reference` is inside `[…]`, where its colon may belong to an array slice."""
    depth = 0
    for token in tokenize(text):
        if token.start >= reference.start:
            break
        if token.text == "[":
            depth += 1
        elif token.text == "]":
            depth -= 1
    return depth > 0


def render(text: str, values: Values) -> str:
    """Return `text` with every reference replaced by its value; the result is not searched for references again.

    A value may get a space before or after it, so that it never merges with what stands beside it. A bare negative
    number gets parentheses: `-:n` must not become the comment `--5`, nor `:n::int2` mean `-(5::int2)`; where SQL takes
    no expression (`SET x = :n`) the quoted form does. None, which only a query's item can be, is NULL. Several values
    have commas between them. TemplateError if a name has no value, or if the value cannot take the form in which it is
    named.
    """
    return render_traced(text, values).text


class Rendered(Struct, frozen=True, kw_only=True):
    """A text with values in it; of each the start and end in `text`, and those of its reference in the original."""

    text: str
    values: tuple[tuple[int, int, int, int], ...]

    def original(self, offset: int) -> int:
        """Return where in the original text a character of `text` comes from; a value comes from its reference."""
        before = 0
        for start, end, reference_start, reference_end in self.values:
            if offset < start:
                break
            if offset < end:
                return reference_start
            before = reference_end - end
        return offset + before


def render_traced(text: str, values: Values) -> Rendered:
    """Return the result of `render`, with the data to find positions in the original text."""
    parts: list[str] = []
    spans: list[tuple[int, int, int, int]] = []
    done = length = 0
    for reference in references(text):
        value = _spaced(text, reference, _value(reference, values))
        length += reference.start - done
        spans.append((length, length + len(value), reference.start, reference.end))
        parts += (text[done : reference.start], value)
        length += len(value)
        done = reference.end
    return Rendered(text="".join(parts) + text[done:], values=tuple(spans))


def quote_literal(value: str) -> str:
    r"""Return `value` as a string constant.

    With a backslash in it, it becomes ` E'…'`, which means the same whatever standard_conforming_strings is; the space
    keeps the E apart from what precedes it. The text is meant for a session whose client_encoding is UTF8, as all of
    jobplan's are: in Shift JIS a character may end in the byte of a backslash. TemplateError if it holds a NUL or half
    of a surrogate pair.
    """
    check_value(value)
    quoted = value.replace("'", "''")
    if "\\" in quoted:
        doubled = quoted.replace("\\", "\\\\")
        return f" E'{doubled}'"
    return f"'{quoted}'"


def quote_identifier(value: str) -> str:
    """Return `value` as a quoted identifier: a double quote in it is doubled.

    TemplateError if it is empty, holds a NUL or half of a surrogate pair, or takes more than 63 bytes in UTF-8:
    PostgreSQL would cut it and use another name without saying so.
    """
    check_value(value)
    if not value:
        raise TemplateError("an identifier cannot be empty")
    if len(value.encode()) > MAX_NAME_BYTES:
        raise TemplateError(f"the identifier {value!r} is longer than PostgreSQL's {MAX_NAME_BYTES} bytes")
    return in_double_quotes(value)


def quote_name(value: str | float | Decimal) -> str:
    """Return a value as a quoted identifier; a relation's name part by part. TemplateError as `quote_identifier`."""
    if isinstance(value, QualifiedName):
        return ".".join(map(quote_identifier, value.parts))
    return quote_identifier(plain_text(value))


def plain_text(value: str | float | Decimal) -> str:
    """Return the text of a value, unquoted; TemplateError for a number that is not finite."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not (math.isfinite(value) if isinstance(value, float) else value.is_finite()):
        raise TemplateError(f"{value} is not a finite number")
    return str(value)


def bare_text(value: str | float | Decimal) -> str:
    """Return a number or boolean as SQL, a negative number in parentheses; TemplateError for anything else."""
    plain = plain_text(value)
    if not isinstance(value, bool) and not _DECIMAL.fullmatch(plain):
        hint = "Only integers, decimal numbers and booleans may be written bare: use the quoted form."
        raise TemplateError(f"{value!r} is not a number", hint=hint)
    return f"({plain})" if plain.startswith("-") else plain


def _is_name(token: Token) -> bool:
    return token.kind in {TokenKind.QUOTED_IDENTIFIER, TokenKind.WORD} or token.text.startswith("'")


def _reference(text: str, around: AroundColon) -> Reference:
    colon, name = around.colon, around.name
    form = {"'": Form.LITERAL, '"': Form.IDENTIFIER}.get(name.text[0], Form.BARE)
    bare = name.text if form is Form.BARE else name.text[1:-1]
    pattern = _BARE_NAME if form is Form.BARE else PARAMETER_NAME
    if not pattern.fullmatch(bare):
        raise TemplateError(_not_a_name(name, bare), offset=colon, hint=_COLON_HINT)
    if form is Form.BARE and _DOT_NAME.match(text, name.end):
        path = PARAMETER_NAME.match(text, name.start)
        dotted = path.group() if path else bare
        raise TemplateError(f":{dotted} has a dot: write :'{dotted}' or :\"{dotted}\"", offset=colon)
    if form is Form.LITERAL and around.quoted:
        message = f":{name.text} stands beside a string constant, and the two would be read as one"
        raise TemplateError(message, offset=colon, hint=f"Write || between two strings. {_COLON_HINT}")
    return Reference(name=bare, form=form, start=colon, end=name.end)


def _not_a_name(token: Token, name: str) -> str:
    if not name:
        return f":{token.text} names no parameter"
    if re.search(r"'\s*[\n\r]\s*'", token.text):
        return f":{token.text!r} is continued on another line, which a parameter cannot be"
    return f":{token.text} does not name a parameter: names are letters, digits and underscores"


def _value(reference: Reference, values: Values) -> str:
    if reference.name not in values:
        raise TemplateError(f"{reference}: no such parameter", offset=reference.start, hint=_COLON_HINT)
    value = values[reference.name]
    if isinstance(value, Listed):
        return ", ".join(_one_value(reference, one).lstrip(" ") for one in value.values)
    return _one_value(reference, value)


def _one_value(reference: Reference, value: Scalar) -> str:
    try:
        if value is None:
            return _null(reference.form)
        if reference.form is Form.LITERAL:
            return quote_literal(plain_text(value))
        if reference.form is Form.IDENTIFIER:
            return quote_name(value)
        return bare_text(value)
    except TemplateError as error:
        message = f"{reference}: {error.message}"
        raise TemplateError(message, offset=reference.start, hint=error.hint) from None


def _null(form: Form) -> str:
    """Only the items of a query can be NULL; a name cannot be."""
    if form is Form.IDENTIFIER:
        raise TemplateError("NULL is not a name")
    return "NULL"


def _spaced(text: str, reference: Reference, value: str) -> str:
    before = text[reference.start - 1 : reference.start]
    apart = before in SETS_APART or (before == "." and reference.form is Form.IDENTIFIER)
    prefix = "" if not before or apart else " "
    # `5` and `.5` or `..` would become one number.
    suffix = " " if reference.form is Form.BARE and text.startswith(".", reference.end) else ""
    return f"{prefix}{value}{suffix}"


def check_value(value: str) -> None:
    """Raise TemplateError for what PostgreSQL cannot hold: a NUL, or half of a surrogate pair."""
    try:
        check_characters(value)
    except ScanError as error:
        raise TemplateError(error.message.replace("the text", "the value")) from None
