"""What a plan requires of the server before anything starts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Protocol

from runner.engine.ports import Gateway, Query, ServerInfo
from runner.errors import RequirementsUnmetError, RunSkippedError
from runner.plan.model import Otherwise, Plan, Requires, Value
from runner.plan.version_ranges import version_fits
from runner.sql.placeholders import quote_literal, render
from runner.structs import Struct


class Unmet(Struct, frozen=True, kw_only=True):
    """A requirement that is not met; `certain` is False if it could not be evaluated, which never skips the run."""

    sentence: str
    certain: bool = True


async def check_requirements(plan: Plan, info: ServerInfo, gateway: Gateway, values: Mapping[str, Value]) -> None:
    """Check that the server meets the plan's `requires`. `values` are the values that its SQL may name.

    RequirementsUnmetError, with every requirement that is not met, if it does not; RunSkippedError if the plan says
    `otherwise: skip` and every one of them could be evaluated.
    """
    unmet = [one async for one in _unmet(plan, info, gateway, values)]
    if not unmet:
        return
    sentences = "; ".join(one.sentence for one in unmet)
    if _is_skipped(plan.requires, unmet):
        raise RunSkippedError(f"skipped, nothing was started: {sentences} (requires: otherwise: skip).")
    raise RequirementsUnmetError(f"the server does not meet the plan's `requires`: {sentences}")


def _is_skipped(requires: Requires, unmet: list[Unmet]) -> bool:
    """Return whether these unmet requirements skip the run."""
    return requires.otherwise is Otherwise.SKIP and bool(unmet) and all(one.certain for one in unmet)


async def _unmet(plan: Plan, info: ServerInfo, gateway: Gateway, values: Mapping[str, Value]) -> AsyncIterator[Unmet]:
    requires = plan.requires
    for sentence in unmet_by_server(requires, info):
        yield Unmet(sentence=sentence)
    if requires.role:
        member = f"SELECT pg_catalog.pg_has_role({quote_literal(requires.role)}, 'member')"
        if (await gateway.query(Query(sql=member))).truth() is not True:
            yield Unmet(sentence=not_a_member(info.user, requires.role))
    for check in requires.preconditions:
        answer = (await gateway.query(Query(sql=render(check.sql.text, values)))).truth()
        if isinstance(answer, str):
            yield Unmet(sentence=f"{check.message} ({answer})", certain=False)
        elif not answer:
            yield Unmet(sentence=check.message)


class _Server(Protocol):
    """The properties of a server that requirements are compared with."""

    @property
    def version(self) -> str: ...
    @property
    def extension_version(self) -> str | None: ...
    @property
    def database(self) -> str: ...
    @property
    def standby(self) -> bool: ...


def unmet_by_server(requires: Requires, server: _Server) -> Iterator[str]:
    """Yield a sentence for each requirement that the server's description does not meet."""
    if requires.databases and server.database not in requires.databases:
        yield f'database is "{server.database}", required is {" or ".join(requires.databases)}'
    if requires.server_version and not version_fits(server.version, requires.server_version):
        yield f"server_version is {server.version}, required is {requires.server_version}"
    if requires.extension_version:
        if not server.extension_version:
            missing = f'the extension pg_background is not in database "{server.database}"'
            yield f"{missing}, required is extension_version {requires.extension_version}"
        elif not version_fits(server.extension_version, requires.extension_version):
            yield f"extension_version is {server.extension_version}, required is {requires.extension_version}"
    if requires.standby is not None and server.standby is not requires.standby:
        yield "the server is not a standby" if requires.standby else "the server is a standby"


def not_a_member(user: str, role: str) -> str:
    """Return the sentence for a role that the session's role is not a member of."""
    return f'"{user}" is not a member of the role "{role}"'
