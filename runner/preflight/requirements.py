"""What a plan requires of the server before anything starts."""

from __future__ import annotations

import operator
import re
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import zip_longest

from runner.errors import PreflightError
from runner.gateway.base import Gateway, Query, ServerInfo
from runner.plan.model import Plan, Value
from runner.sql.params import quote_literal, render

Version = tuple[int, ...]

_COMPARATORS: Mapping[str, Callable[[int, int], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "!=": operator.ne,
    "==": operator.eq,
    "": operator.eq,
}
_CONSTRAINT = re.compile(r"(>=|<=|>|<|==|!=)?\s*(\d+(?:\.\d+)*)", re.ASCII)


async def check_requirements(plan: Plan, info: ServerInfo, gateway: Gateway, values: Mapping[str, Value]) -> None:
    """Return if the server is as the plan requires it.

    PreflightError, with every requirement that does not hold, if it is not. `values` are what SQL may name.
    """
    broken = [sentence async for sentence in _broken(plan, info, gateway, values)]
    if broken:
        raise PreflightError("the server is not as the plan requires it: " + "; ".join(broken))


async def _broken(plan: Plan, info: ServerInfo, gateway: Gateway, values: Mapping[str, Value]) -> AsyncIterator[str]:
    requires = plan.requires
    if requires.databases and info.database not in requires.databases:
        yield f'database is "{info.database}", required is {" or ".join(requires.databases)}'
    if requires.server_version and not version_fits(info.version, requires.server_version):
        yield f"server_version is {info.version}, required is {requires.server_version}"
    if requires.extension_version and not version_fits(info.extension_version, requires.extension_version):
        yield f"extension_version is {info.extension_version}, required is {requires.extension_version}"
    if requires.standby is not None:
        standby = await _holds(gateway, "SELECT pg_catalog.pg_is_in_recovery()")
        if standby is not requires.standby:
            yield "the server is no standby" if requires.standby else "the server is a standby"
    if requires.role:
        member = f"SELECT pg_catalog.pg_has_role({quote_literal(requires.role)}, 'member')"
        if await _holds(gateway, member) is not True:
            yield f'"{info.user}" is not a member of the role "{requires.role}"'
    for check in requires.preconditions:
        answer = await _holds(gateway, render(check.sql.text, values))
        if answer is not True:
            yield check.message if answer is False else f"{check.message} ({answer})"


async def _holds(gateway: Gateway, sql: str) -> bool | str:
    """Return what the condition says, or in words why it says nothing. NULL is not true."""
    result = await gateway.query(Query(sql=sql))
    if result.error is not None:
        return result.error.message
    if not result.boolean or len(result.rows) != 1:
        return "the condition does not give one boolean"
    return result.rows[0][0] == "t"


def version_fits(version: str, constraints: str) -> bool:
    """Say whether a version such as `16.4` satisfies constraints such as `>=14, <18`.

    Only as many parts count as the constraint names: 16.4 is `==16` and `<=16`. What follows the numbers of a version
    (`18beta1`, `16.4 (Debian …)`) does not count.
    """
    found = re.match(r"\d+(?:\.\d+)*", version, re.ASCII)
    numbers = _numbers(found.group()) if found else ()
    return all(_fits(numbers, part.strip()) for part in constraints.split(","))


def _fits(version: Version, constraint: str) -> bool:
    match = _CONSTRAINT.fullmatch(constraint)
    if match is None:
        return False
    wanted = _numbers(match.group(2))
    compared = _compare(version[: len(wanted)], wanted)
    return _COMPARATORS[match.group(1) or ""](compared, 0)


def _compare(left: Version, right: Version) -> int:
    for a, b in zip_longest(left, right, fillvalue=0):
        if a != b:
            return -1 if a < b else 1
    return 0


def _numbers(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))
