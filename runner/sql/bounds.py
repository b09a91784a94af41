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
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}


class Bound(Struct, frozen=True, kw_only=True):
    """What a partition may contain: one of `values`, or from `lower` on and below `upper`; None is not compared."""

    values: frozenset[_Constant] | None = None
    lower: _Constant | None = None
    upper: _Constant | None = None
    limited_below: bool = False
    limited_above: bool = False


class Check(Struct, frozen=True, kw_only=True):
    """The comparisons of a CHECK that all hold: an operator with a constant, or `=` with several."""

    lower: tuple[tuple[str, _Constant], ...] = ()
    upper: tuple[tuple[str, _Constant], ...] = ()
    lists: tuple[frozenset[_Constant], ...] = ()
    understood: bool = True

    def keeps_within(self, bound: Bound) -> bool:
        """Return whether rows that satisfy the CHECK are within the bound, as far as both are constants."""
        if not self.understood:
            return True
        if bound.values is not None:
            return any(each <= bound.values for each in self.lists)
        above = not bound.limited_below or any(_reaches(one, bound.lower) for one in self.lower)
        return above and (not bound.limited_above or any(_stays_below(one, bound.upper) for one in self.upper))


def _reaches(comparison: tuple[str, _Constant], lower: _Constant | None) -> bool:
    value = comparison[1]
    if isinstance(value, str) and isinstance(lower, str):
        return value >= lower
    return value >= lower if isinstance(value, float) and isinstance(lower, float) else True


def _stays_below(comparison: tuple[str, _Constant], upper: _Constant | None) -> bool:
    operator, value = comparison
    if isinstance(value, str) and isinstance(upper, str):
        return value <= upper if operator == "<" else value < upper
    if isinstance(value, float) and isinstance(upper, float):
        return value <= upper if operator == "<" else value < upper
    return True


def attached_bound(statement: Statement) -> Bound | None:
    """Return the bound of ATTACH PARTITION; None without one that a CHECK can be compared with (DEFAULT, hash)."""
    if statement.kind is not StatementKind.ALTER_TABLE:
        return None
    spec = next(find(statement.node, "PartitionBoundSpec"), None)
    if spec is None or spec.is_default:
        return None
    if spec.strategy == "l":
        found = [_constant(unwrap(one)) for one in spec.listdatums]
        return Bound(values=frozenset(one for one in found if one is not None))
    if spec.strategy != "r":
        return None
    lower, upper = unwrap(spec.lowerdatums[0]), unwrap(spec.upperdatums[0])
    return Bound(
        lower=_constant(lower),
        upper=_constant(upper),
        limited_below=not _is_unlimited(lower),
        limited_above=not _is_unlimited(upper),
    )


def added_checks(statement: Statement) -> Iterator[tuple[str | None, Check]]:
    """Yield the CHECK constraints that an ALTER TABLE adds, with their names."""
    if statement.kind is not StatementKind.ALTER_TABLE:
        return
    for constraint in find(statement.node, "Constraint"):
        if label(constraint, "contype") == "CONSTR_CHECK":
            yield constraint.conname or None, _read(list(_conjuncts(unwrap(constraint.raw_expr))))


def together(checks: Iterable[Check]) -> Check:
    """Return several CHECKs as one, in which all of their comparisons hold."""
    found = list(checks)
    return Check(
        lower=tuple(pair for check in found for pair in check.lower),
        upper=tuple(pair for check in found for pair in check.upper),
        lists=tuple(each for check in found for each in check.lists),
        understood=all(check.understood for check in found),
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


def _read(conjuncts: Iterable[Tree]) -> Check:
    lower: list[tuple[str, _Constant]] = []
    upper: list[tuple[str, _Constant]] = []
    lists: list[frozenset[_Constant]] = []
    understood = True
    for one in conjuncts:
        if one.DESCRIPTOR.name == "NullTest":
            continue
        compared = list(_comparisons(one))
        understood = understood and bool(compared)
        lower += [(operator, value) for operator, value in compared if operator in {">", ">=", "="}]
        upper += [(operator, value) for operator, value in compared if operator in {"<", "<=", "="}]
        if compared and all(operator == "=" for operator, _ in compared):
            lists.append(frozenset(value for _, value in compared))
    return Check(lower=tuple(lower), upper=tuple(upper), lists=tuple(lists), understood=understood)


def _comparisons(node: Tree) -> Iterator[tuple[str, _Constant]]:
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
