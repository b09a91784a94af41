"""Bounds of partitions, and whether a CHECK constraint implies one, as PostgreSQL's prover decides it.

Only constants are compared, numbers with numbers and texts with texts. What cannot be compared, such as a function or
two columns, counts as within the bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import Tree, find, label, strings, unwrap
from runner.structs import Struct

_Constant = float | str
_Comparison = tuple[str, _Constant]
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}


class PartitionBound(Struct, frozen=True, kw_only=True):
    """What a partition may contain: one of `values`, or from `lower` on and below `upper`; None is not compared."""

    values: frozenset[_Constant] | None = None
    lower: _Constant | None = None
    upper: _Constant | None = None
    limited_below: bool = False
    limited_above: bool = False


class CheckConditions(Struct, frozen=True):
    """The conditions of a CHECK that all hold: operators with a constant, or `=` with several.

    Without `understood` it has a condition of another form, and is not compared.
    """

    conditions: tuple[tuple[_Comparison, ...], ...] = ()
    understood: bool = True

    def keeps_within(self, bound: PartitionBound) -> bool:
        """Return whether rows that satisfy the CHECK are within the bound, as far as both are constants."""
        if not self.understood:
            return True
        if bound.values is not None:
            lists = (each for each in self.conditions if all(operator == "=" for operator, _ in each))
            return any({value for _, value in each} <= bound.values for each in lists)
        pairs = [pair for each in self.conditions for pair in each]
        above = not bound.limited_below or any(_is_above(*pair, bound.lower) for pair in pairs)
        return above and (not bound.limited_above or any(_is_below(*pair, bound.upper) for pair in pairs))


def _is_above(operator: str, value: _Constant, lower: _Constant | None) -> bool:
    return operator in {">", ">=", "="} and _at_least(value, lower)


def _is_below(operator: str, value: _Constant, upper: _Constant | None) -> bool:
    return operator in {"<", "<=", "="} and _at_least(upper, value) and (operator == "<" or value != upper)


def _at_least(value: _Constant | None, other: _Constant | None) -> bool:
    """Return whether a value is another one or more; true if they cannot be compared."""
    if isinstance(value, str) and isinstance(other, str):
        return value >= other
    return value >= other if isinstance(value, float) and isinstance(other, float) else True


def attached_bound(statement: Statement) -> PartitionBound | None:
    """Return the bound of ATTACH PARTITION; None without one that a CHECK can be compared with (DEFAULT, hash)."""
    if statement.kind is not StatementKind.ALTER_TABLE:
        return None
    spec = next(find(statement.node, "PartitionBoundSpec"), None)
    if spec is None or spec.is_default:
        return None
    if spec.strategy == "l":
        found = [_constant(unwrap(one)) for one in spec.listdatums]
        return PartitionBound(values=frozenset(one for one in found if one is not None))
    if spec.strategy != "r":
        return None
    lower, upper = unwrap(spec.lowerdatums[0]), unwrap(spec.upperdatums[0])
    return PartitionBound(
        lower=_constant(lower),
        upper=_constant(upper),
        limited_below=not _is_unlimited(lower),
        limited_above=not _is_unlimited(upper),
    )


def added_checks(statement: Statement) -> Iterator[tuple[str | None, CheckConditions]]:
    """Yield the CHECK constraints that an ALTER TABLE adds, with their names."""
    if statement.kind is not StatementKind.ALTER_TABLE:
        return
    for constraint in find(statement.node, "Constraint"):
        if label(constraint, "contype") == "CONSTR_CHECK":
            conditions = [one for one in _conjuncts(unwrap(constraint.raw_expr)) if one.DESCRIPTOR.name != "NullTest"]
            compared = tuple(tuple(_comparisons(one)) for one in conditions)
            yield constraint.conname or None, CheckConditions(compared, all(compared))


def together(checks: Iterable[CheckConditions]) -> CheckConditions:
    """Return several CHECKs as one, in which all of their comparisons hold."""
    found = list(checks)
    return CheckConditions(
        tuple(one for check in found for one in check.conditions), all(check.understood for check in found)
    )


def _is_unlimited(node: Tree) -> bool:
    return node.DESCRIPTOR.name == "ColumnRef" and strings(node.fields)[-1:] in {("minvalue",), ("maxvalue",)}


def _constant(node: Tree) -> _Constant | None:
    while node.DESCRIPTOR.name == "TypeCast":
        node = unwrap(node.arg)
    if node.DESCRIPTOR.name != "A_Const" or node.isnull:
        return None
    if node.HasField("ival"):
        return float(node.ival.ival)
    if node.HasField("fval"):
        return float(node.fval.fval)
    return str(node.sval.sval) if node.HasField("sval") else None


def _conjuncts(node: Tree) -> Iterator[Tree]:
    if node.DESCRIPTOR.name == "BoolExpr" and label(node, "boolop") == "AND_EXPR":
        for one in node.args:
            yield from _conjuncts(unwrap(one))
    else:
        yield node


def _comparisons(node: Tree) -> Iterator[_Comparison]:
    """Yield what one condition compares a column with; nothing if it is something else."""
    if node.DESCRIPTOR.name != "A_Expr":
        return
    kind, operator = label(node, "kind"), strings(node.name)[-1]
    left, right = unwrap(node.lexpr), unwrap(node.rexpr)
    if left.DESCRIPTOR.name != "ColumnRef":
        left, right, operator = right, left, _TURNED.get(operator, "")
    if left.DESCRIPTOR.name != "ColumnRef":
        return
    if kind == "AEXPR_OP" and operator in _TURNED:
        pairs = [(operator, right)]
    elif kind == "AEXPR_BETWEEN":
        first, last = map(unwrap, right.items)
        pairs = [(">=", first), ("<=", last)]
    elif kind in {"AEXPR_IN", "AEXPR_OP_ANY"} and operator == "=":
        items = right.items if right.DESCRIPTOR.name == "List" else getattr(right, "elements", ())
        pairs = [("=", unwrap(item)) for item in items]
    else:
        return
    values = [(operator, _constant(value)) for operator, value in pairs]
    if all(value is not None for _, value in values):
        yield from ((operator, value) for operator, value in values if value is not None)
