"""Read the parser's trees. Only this module knows the structure of its messages.

Every child is wrapped in a one-of message; a field that is not set reads as its type's empty value. The parser's types
have no usable stubs, hence `Any`; nothing above runner.sql sees a tree.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError, Message
from postgast import PgQueryError, parse, pg_query_pb2, scan

from runner.sql.qualified_names import QualifiedName

Tree = Any
_Wrapper = pg_query_pb2.Node
#: The types of the nodes that change rows.
ROW_CHANGING_NODES: Final = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt")


#: What the value of a field is: nothing that has children, one message, or several.
_PLAIN, _MESSAGE, _MESSAGES = range(3)
#: Cached by the value's type: reading it from the field each time would take longer than all the rest.
_HELD: dict[type, int] = dict.fromkeys((str, int, bool, float, bytes), _PLAIN)


class TreeError(Exception):
    """The text cannot be parsed; `cursor` counts characters from 1, 0 is unknown. It is not raised outside runner.sql.

    `refused`: the grammar does not accept the text; otherwise the text is too long or too deep to be parsed.
    """

    def __init__(self, message: str, cursor: int, *, refused: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.cursor = cursor
        self.refused = refused


def _allow_deep_trees() -> None:
    """Let trees be deeper than 100 messages, which `'a' || 'b' || …` is with 50 operands.

    protobuf has no public name for it; where this one is missing, such a text is reported as too deep to check.
    """
    try:
        messages = importlib.import_module("google._upb._message")
        messages.SetAllowOversizeProtos(True)  # noqa: FBT003 -- it takes no keyword
    except (ImportError, AttributeError):
        return


_allow_deep_trees()


#: Tokens up to which any text fits the ordinary stack: the parser's C code recurses once for each operator of a chain,
#: and takes some 450 bytes each time. A text has no more tokens than characters.
_SHORT = 15_000
#: A text with more tokens is not parsed: a chain of so many operators would take minutes.
MAX_TOKENS = 100_000
_STACK_BYTES = 128 * 1024 * 1024


def parse_tree(text: str) -> Tree:
    """Return the tree of a SQL text.

    TreeError if PostgreSQL's grammar refuses it, or if it is too long or too deep to be parsed safely.
    """
    if len(text) <= _SHORT:
        return _parse(text)
    tokens = _count_tokens(text)
    if tokens > MAX_TOKENS:
        message = f"the SQL text has {tokens:,} tokens; jobplan reads {MAX_TOKENS:,} at most"
        raise TreeError(message, 0, refused=False)
    return _parse(text) if tokens <= _SHORT else _with_deep_stack(lambda: _parse(text))


def _count_tokens(text: str) -> int:
    try:
        return len(scan(text).tokens)
    except PgQueryError as error:
        raise TreeError(error.message, error.cursorpos) from None


def _with_deep_stack(work: Callable[[], Tree]) -> Tree:
    """Run `work` with a large stack: a stack overflow in C would end the process without a message."""
    outcome: list[Tree | TreeError] = []

    def run() -> None:
        try:
            outcome.append(work())
        except TreeError as error:
            outcome.append(error)

    before = threading.stack_size(_STACK_BYTES)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    if isinstance(outcome[0], TreeError):
        raise outcome[0]
    return outcome[0]


def _parse(text: str) -> Tree:
    try:
        return parse(text)
    except PgQueryError as error:
        raise TreeError(error.message, error.cursorpos) from None
    except DecodeError:
        raise TreeError("the statement is nested too deeply to be read", 0, refused=False) from None


def unwrap(node: Tree) -> Tree:
    """Return the message that a one-of wrapper holds, or the node itself."""
    if type(node) is _Wrapper:
        chosen = node.WhichOneof("node")  # ListFields takes ten times as long: the one-of has 270 members
        return node if chosen is None else getattr(node, chosen)
    return node


def children(node: Tree) -> Iterator[tuple[str, Tree]]:
    """Yield each child with the field that it is in."""
    for field, value in node.ListFields():
        held = _HELD.get(type(value))
        if held is None:
            held = _held(field, value)
        if held == _MESSAGE:
            yield field.name, unwrap(value)
        elif held == _MESSAGES:
            for item in value:
                yield field.name, unwrap(item)


def walk(node: Tree) -> Iterator[Tree]:
    """Yield the node and everything below it, parents first, in the order of the text where the tree keeps it.

    Much of what rules cost is this loop: hence no calls in it that can be left out.
    """
    stack = [unwrap(node)]
    while stack:
        current = stack.pop()
        yield current
        below: list[Tree] = []
        for field, value in current.ListFields():
            held = _HELD.get(type(value))
            if held is None:
                held = _held(field, value)
            if held == _MESSAGE:
                below.append(value)
            elif held == _MESSAGES:
                below += value
        for child in reversed(below):
            chosen = child.WhichOneof("node") if type(child) is _Wrapper else None
            stack.append(child if chosen is None else getattr(child, chosen))


def replace_names(node: Tree, mark: str, names: Mapping[str, str]) -> None:
    """Give every string in and below `node` that is `mark` and one of `names` the name's value.

    A relation's name becomes a name with its schema where a relation is named; in a string it is one text.

    A loop of its own, because every text with parameters goes through it.
    """
    qualified = any(isinstance(name, QualifiedName) for name in names.values())
    stack = [unwrap(node)]
    while stack:
        current = stack.pop()
        if qualified:
            _qualify(current, mark, names)
        for field, value in current.ListFields():
            held = _HELD.get(type(value))
            if held is None:
                held = _held(field, value)
            if held == _MESSAGE:
                stack.append(unwrap(value))
            elif held == _MESSAGES:
                stack += map(unwrap, value)
            elif type(value) is str and value.startswith(mark):
                setattr(current, field.name, str(names.get(value.removeprefix(mark), value)))


def _qualify(node: Tree, mark: str, names: Mapping[str, str]) -> None:
    """Give a relation that is named by one mark alone both parts of a relation's name."""
    kind = type(node)
    if kind is pg_query_pb2.RangeVar and node.relname.startswith(mark):
        parts = _parts(node.relname, mark, names)
        if parts and not (len(parts) > 1 and node.schemaname):
            node.relname = parts[-1]
            node.schemaname = parts[-2] if len(parts) > 1 else node.schemaname
    elif kind is pg_query_pb2.List and len(node.items) == 1 and type(unwrap(node.items[0])) is pg_query_pb2.String:
        parts = _parts(unwrap(node.items[0]).sval, mark, names)
        if parts:
            del node.items[:]
            node.items.extend(pg_query_pb2.Node(string=pg_query_pb2.String(sval=part)) for part in parts)


def _parts(text: str, mark: str, names: Mapping[str, str]) -> tuple[str, ...]:
    name = names.get(text.removeprefix(mark)) if text.startswith(mark) else None
    return name.parts if isinstance(name, QualifiedName) else ()


def find(node: Tree, name: str) -> Iterator[Tree]:
    """Yield every node of one type in and below `node`."""
    wanted = getattr(pg_query_pb2, name)
    return (found for found in walk(node) if type(found) is wanted)


def contains(node: Tree, *names: str) -> bool:
    """Return whether a node of one of these types is in or below `node`."""
    wanted = {getattr(pg_query_pb2, name) for name in names}
    return any(type(found) in wanted for found in walk(node))


def label(node: Tree, field: str) -> str:
    """Return the name of an enum field's value: `OBJECT_TABLE`."""
    values = node.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
    name: str = values[getattr(node, field)].name
    return name


def _held(field: Tree, value: Tree) -> int:
    several = _PLAIN if field.message_type is None else _MESSAGES
    return _HELD.setdefault(type(value), _MESSAGE if isinstance(value, Message) else several)


def strings(nodes: Iterable[Tree]) -> tuple[str, ...]:
    """Return the parts of a name: `schema.table` is a list of two String nodes."""
    return tuple(unwrap(node).sval for node in nodes)


def subcommands(node: Tree) -> Iterator[tuple[str, Tree, Tree]]:
    """Yield each subcommand of an AlterTableStmt: its type, such as `AT_AddColumn`, itself, and its definition."""
    for command in map(unwrap, node.cmds) if node.DESCRIPTOR.name == "AlterTableStmt" else ():
        yield label(command, "subtype"), command, unwrap(getattr(command, "def"))  # a keyword of Python


def string_constant(node: Tree) -> str | None:
    """Return the value of a string constant, None for anything else."""
    constant = unwrap(node)
    is_string = constant.DESCRIPTOR.name == "A_Const" and constant.HasField("sval")
    return str(constant.sval.sval) if is_string else None


def option_value(option: Tree) -> str | None:
    """Return the value of a DefElem as text, None without one: a word, a string, a number, `true` or `false`."""
    if not option.HasField("arg"):
        return None
    value = unwrap(option.arg)
    if value.DESCRIPTOR.name == "Boolean":
        return "true" if value.boolval else "false"
    if value.DESCRIPTOR.name == "TypeName":  # an unquoted word in some of the lists
        return strings(value.names)[-1]
    field = {"String": "sval", "Integer": "ival", "Float": "fval"}.get(value.DESCRIPTOR.name)
    return str(getattr(value, field)) if field else ""
