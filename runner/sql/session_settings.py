"""Settings of a session: `role`, `search_path`, `settings` and `touches` of a step, and what SET statements assign.

The plan's texts are not SQL, but a parameter in them is written as in SQL and quoted as there: `:"name"` and `:'name'`
are one name in a list of names, or the value of a setting. It stands alone between the separators of its list, so that
no value can become more than one name; everywhere else it is an error, never text.

Sources: the pages of SET, RESET and SET ROLE in the PostgreSQL documentation.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator

from runner.sql.placeholders import (
    PARAMETER_NAME,
    Form,
    Listed,
    Reference,
    TemplateError,
    Values,
    check_value,
    plain_text,
    quote_identifier,
    quote_name,
)
from runner.sql.qualified_names import QualifiedName, in_double_quotes
from runner.sql.statements import QUERIES, Statement, StatementKind
from runner.sql.syntax_tree import Tree, find, label, string_constant, strings, unwrap

#: Settings whose value is a list of names, which are quoted one by one (GUC_LIST_QUOTE in PostgreSQL's guc_tables.c).
LISTS = frozenset({"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"})

_PIECE = re.compile(
    r"""(?P<space>\s+)|:'(?P<literal>[^']*)'|:"(?P<identifier>[^"]*)"|"(?:[^"]|"")*"|::|:(?P<bare>[A-Za-z_][A-Za-z0-9_]*)|.""",
    re.DOTALL,
)


class SettingPlace(enum.Enum):
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
        """Return whether the text is a value for SET, not a list of names."""
        return self is SettingPlace.SETTING


def place_of_setting(name: str) -> SettingPlace:
    """Return what the value of this setting is."""
    return SettingPlace.LIST_SETTING if name.lower() in LISTS else SettingPlace.SETTING


def named_in(text: str, place: SettingPlace, known: Callable[[str], bool]) -> tuple[Reference, ...]:
    """Return the parameters that a text names, in order.

    A colon before a word inside other text names one only if `known` says so: `host:port` is a value like any other.
    TemplateError, with its offset, for a parameter that does not stand alone or has a form that cannot be there.
    """
    return tuple(found for found, _ in _named_in(text, place, known)) if ":" in text else ()


def render_names(text: str, place: SettingPlace, values: Values) -> str:
    """Return a list of names with each parameter as a quoted identifier. TemplateError if a value cannot be a name."""
    return _rendered(text, place, values, quote_identifier)


def render_role(text: str, values: Values) -> str:
    """Return the name of the role. TemplateError for what is no role's name; `none` would be that of the login."""

    def name(value: str) -> str:
        quote_identifier(value)
        if value == "none":
            raise TemplateError("`none` is no role: PostgreSQL would run the step as the role that has logged in")
        return value

    return _rendered(text, SettingPlace.ROLE, values, name)


def render_setting(name: str, text: str, values: Values) -> str:
    """Return the value of a setting for set_config. TemplateError if the parameter has none."""
    place = place_of_setting(name)
    return _rendered(text, place, values, quote_identifier if place is SettingPlace.LIST_SETTING else _as_it_is)


def _as_it_is(value: str) -> str:
    check_value(value)
    return value


def _rendered(text: str, place: SettingPlace, values: Values, quote: Callable[[str], str]) -> str:
    if ":" not in text:
        return text
    parts: list[str] = []
    done = 0
    for reference, start in _named_in(text, place, lambda name: name in values):
        parts += (text[done:start], _value(reference, place, values, quote))
        done = reference.end
    return "".join(parts) + text[done:]


def _value(reference: Reference, place: SettingPlace, values: Values, quote: Callable[[str], str]) -> str:
    if reference.name not in values:
        raise TemplateError(f"{reference}: no such parameter", offset=reference.start)
    value = values[reference.name]
    if value is None:
        raise TemplateError(f"{reference}: NULL is not a value here", offset=reference.start)
    if isinstance(value, Listed):
        raise TemplateError(f"{reference}: the items of a chunk are not one value", offset=reference.start)
    if isinstance(value, QualifiedName) and place not in (SettingPlace.TOUCHES, SettingPlace.SETTING):
        raise TemplateError(f"{reference}: a relation is not one name", offset=reference.start)
    try:
        if place is SettingPlace.TOUCHES:
            return quote_name(value)
        return quote(plain_text(value))
    except TemplateError as error:
        raise TemplateError(f"{reference}: {error.message}", offset=reference.start, hint=error.hint) from None


def _named_in(text: str, place: SettingPlace, known: Callable[[str], bool]) -> Iterator[tuple[Reference, int]]:
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
    pieces: list[re.Match[str]], place: SettingPlace, known: Callable[[str], bool]
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


_K = StatementKind

#: The name for all settings except the role.
ALL = "all"
#: Settings that RESET ALL does not reset.
OF_USERS = frozenset({"role", "session_authorization"})


def assigned(statement: Statement) -> tuple[tuple[str, str | None], ...]:
    """Return names and values in the order in which they are set; None restores the value from before the text.

    RESET ALL has the name ALL. Settings with a value that only the server can compute are left out.
    """
    node = statement.node
    match statement.kind:
        case _K.SET | _K.RESET if node.DESCRIPTOR.name == "VariableSetStmt":
            return tuple(_set(node))
        case _K.SELECT:
            return tuple(_by_function(node))
    return ()


def settings_changed(statement: Statement) -> Iterator[tuple[str, int]]:
    """Yield the names that SET, RESET and `set_config('name', …)` change, with offsets; RESET ALL has the name ALL."""
    node = statement.node
    if statement.kind in {_K.SET, _K.RESET}:
        yield node.name or ALL, statement.start
        return
    for call in find(node, "FuncCall"):
        name = string_constant(call.args[0]) if call.args else None
        if name is not None and strings(call.funcname)[-1] == "set_config":
            yield name, statement.offset(call)


def settings_read(statement: Statement) -> tuple[str, ...]:
    """Return the settings that `current_setting('name')` reads, which fails if there is no such setting."""
    calls = (call for call in find(statement.node, "FuncCall") if strings(call.funcname)[-1:] == ("current_setting",))
    names = (_constant(call.args[0]) for call in calls if len(call.args) == 1)
    return tuple(name.lower() for name in names if name is not None)


def settings_after(
    before: tuple[tuple[str, str], ...], assignments: tuple[tuple[str, str | None], ...]
) -> tuple[tuple[str, str], ...]:
    """Return the settings after these assignments, by name, if those before were `before`."""
    found: dict[str, str] = dict(before)
    for name, value in assignments:
        if name == ALL:
            found = {kept: found[kept] for kept in found if kept in OF_USERS}
        elif value is None:
            found.pop(name, None)
        else:
            found[name] = value
    return tuple(found.items())


def computed_after(before: frozenset[str], statement: Statement) -> frozenset[str]:
    """Return the settings whose value is known only when the text runs, after this statement.

    These are settings that `set_config` gives the value of an expression, in a query of any kind. If the name itself is
    an expression, it may be any, and all that names depend on counts.
    """
    plain = statement.kind is _K.SELECT
    known = {name for name, _ in assigned(statement)}
    if ALL in known:
        return before & {"role"}
    found: set[str] = set()
    for call in find(statement.node, "FuncCall") if statement.kind in _WITH_CALLS else ():
        if strings(call.funcname)[-1] == "set_config":
            name, value = [*map(_constant, list(call.args)[:2]), None, None][:2]
            if name is None:
                found |= _NAMING
            elif value is None or not plain:
                found.add(name.lower())
    return before - known | found


#: On these it depends what a name in a statement means.
_NAMING = frozenset({"search_path", "role"})
_WITH_CALLS = QUERIES | {_K.SELECT_INTO, _K.CREATE_TABLE_AS}


def _set(node: Tree) -> Iterator[tuple[str, str | None]]:
    name = node.name.lower()
    match label(node, "kind"):
        case "VAR_SET_VALUE":
            values = [_constant(argument) for argument in node.args]
            if values and None not in values:
                shown = [value for value in values if value is not None]
                # SET quotes each name of a list: `SET search_path = ''` searches a schema without a name.
                yield name, ", ".join(map(in_double_quotes, shown) if name in LISTS else shown)
        case "VAR_SET_DEFAULT" | "VAR_RESET":
            yield name, None
        case "VAR_RESET_ALL":
            yield ALL, None


def _by_function(node: Tree) -> Iterator[tuple[str, str | None]]:
    for call in find(node, "FuncCall"):
        if strings(call.funcname) in {("set_config",), ("pg_catalog", "set_config")}:
            name, value = [*map(_constant, list(call.args)[:2]), None, None][:2]
            if name is not None and value is not None:
                yield name.lower(), value


def _constant(wrapped: Tree) -> str | None:
    """Return the text of a constant, None for anything else."""
    node = unwrap(wrapped)
    if node.DESCRIPTOR.name != "A_Const" or node.isnull:
        return None
    if node.HasField("boolval"):
        return "on" if node.boolval.boolval else "off"
    fields = (field for field in ("sval", "ival", "fval") if node.HasField(field))
    return next((str(getattr(getattr(node, field), field)) for field in fields), None)
