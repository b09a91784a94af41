"""What a statement requires of the catalog, and what it changes there."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from runner.sql.relations import Relation


class Right(enum.Enum):
    """The privilege that a role needs on a relation."""

    NONE = "no privilege"
    OWN = "ownership"
    MAINTAIN = "ownership or MAINTAIN"
    GRANT = "ownership or a grant option"
    TRUNCATE = "TRUNCATE"
    SELECT = "SELECT"
    INSERT = "INSERT"
    TRIGGER = "TRIGGER"
    REFERENCES = "REFERENCES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """A relation that must be there. `kinds` are letters of pg_class.relkind, none for any; `offset` is in characters.

    `missing_ok`: the statement has IF EXISTS.
    """

    relation: Relation
    offset: int
    right: Right = Right.NONE
    kinds: str = ""
    missing_ok: bool = False


class Action(enum.Enum):
    """What happens to an object."""

    CREATE = "created"
    DROP = "dropped"
    ALTER = "changed"


class Sort(enum.Enum):
    """The kind of object, as far as it matters for conflicts of names."""

    RELATION = "relation"
    SCHEMA = "schema"
    COLUMN = "column"
    FUNCTION = "function"
    TYPE = "type"
    CONSTRAINT = "constraint"
    ROLE = "role"
    #: A unique index on columns, without WHERE; its `name` and relation are the table's.
    UNIQUE = "unique index"
    #: Unknown: DO, CALL, an extension's script.
    ANYTHING = "anything"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the catalog. A schema or role has no `relation`; a column or constraint has a relation and a `name`.

    `guarded`: with IF NOT EXISTS, IF EXISTS or OR REPLACE; `kind` is the letter of pg_class.relkind of what is created,
    `renamed` for what has another name from then on, `extension` for what an extension's script creates,
    `creates` for a DO that alters and drops nothing.
    """

    action: Action
    sort: Sort
    relation: Relation | None = None
    name: str = ""
    guarded: bool = False
    kind: str = ""
    offset: int = 0
    #: It ends with the step's session.
    temporary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A column or constraint of a relation that must be there (`exists`) or must not be there yet."""

    relation: Relation
    sort: Sort
    name: str
    exists: bool
    offset: int
