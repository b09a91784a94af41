"""Find the targets of one fleet run: query the clusters, compare them, and assign every target to a wave.

The list is made once, when the fleet run begins, and recorded: a resume works on the same targets, although a query
might return others by then. Nothing begins with a list that may be incomplete, so a query that fails, or a wave of the
file that got no target, ends the command. A listed target on a server that does not answer stays in the list: it is
tried, and counts as failed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from runner.engine.events import Place
from runner.errors import GatewayError, PreflightError, UsageError
from runner.fleet.targets import Cluster, Discovery, PlacedTargets, Selector, Target, Targets, place, select
from runner.gateway.connecting import conninfo_of
from runner.gateway.inspection import Inspector
from runner.gateway.ledger.finding import searching
from runner.gateway.server_refusals import read_place
from runner.phrases import ended
from runner.structs import Struct, replace

_Value = TypeVar("_Value")

#: The application_name of the sessions that query clusters.
_APPLICATION = "jobplan fleet"
#: The number of sessions that query clusters at the same time.
_AT_ONCE = 16
#: The most targets of a fleet.
MAX_TARGETS = 10_000
#: How many problems a message lists.
_SHOWN = 10

_NAME, _DATABASE, _CLUSTER = "name", "database", "cluster"


class Resolved(Struct, frozen=True, kw_only=True):
    """The targets of a fleet run, by wave. `targets` has those selected, in order; `warnings` are for a person."""

    targets: Targets
    placed: PlacedTargets
    warnings: tuple[str, ...] = ()


class _Answer(Struct, frozen=True, kw_only=True):
    """What a cluster said: its identity, None if it could not be reached, and the rows of its queries."""

    place: Place | None
    found: tuple[tuple[Discovery, tuple[Target, ...]], ...] = ()
    warnings: tuple[str, ...] = ()


def target_conninfo(cluster: Cluster, database: str) -> str:
    """Return the connection string of a database on a cluster."""
    return conninfo_of({**cluster.connection, "dbname": database})


async def resolve(targets: Targets, where: Sequence[Selector] = ()) -> Resolved:
    """Return the targets that meet `where`, with those that the queries find, each in its wave.

    PreflightError if the list may be incomplete or false: a query failed, two clusters are one server, two targets are
    one database, or a target is in no wave or in two. UsageError if `where` selects none.
    """
    names = _needed(targets, where)
    limit = asyncio.Semaphore(_AT_ONCE)
    answers = dict(zip(names, await asyncio.gather(*(_ask(targets, name, limit) for name in names)), strict=True))
    _check_clusters(answers)
    found = [target for answer in answers.values() for _, made in answer.found for target in made]
    everything = (*targets.targets, *found)
    _check_targets(everything)
    chosen = select(everything, where)
    if not chosen:
        raise _nothing(targets, everything, where)
    placed = place(everything, targets.rollout.waves)
    if placed.problems:
        raise _problems("the rollout does not fit the targets", placed.problems)
    empty = [wave.name for wave, members in placed.waves if not members]
    if empty and not where:
        raise PreflightError(
            f"nothing was started: no target is in the wave {empty[0]}.",
            hint="A wave without targets protects nothing: correct its `where`, or remove the wave.",
        )
    frozen = replace(targets, targets=chosen, discover=())
    warnings = tuple(warning for answer in answers.values() for warning in answer.warnings)
    return Resolved(targets=frozen, placed=place(chosen, targets.rollout.waves), warnings=warnings)


async def recorded_runs(
    targets: Targets, fleet: str, ledger: str | None, trusted_roles: Sequence[str]
) -> Mapping[str, str]:
    """Return the runs of a fleet run that the ledgers of its targets have, by target.

    PreflightError if a target cannot be queried: it may have a run, which must not be begun a second time.
    """
    limit = asyncio.Semaphore(_AT_ONCE)

    async def ask(target: Target) -> str | None:
        conninfo = target_conninfo(targets.clusters[target.cluster], target.database)
        async with limit, searching(conninfo, ledger, trusted_roles) as search:
            if search.problem is not None:
                raise PreflightError(
                    f"nothing was started: the ledger on {target.name} cannot be read: {search.problem}"
                )
            return next((run for run, name in await search.of_fleet(fleet) if name == target.name), None)

    runs = await asyncio.gather(*map(ask, targets.targets))
    return {target.name: run for target, run in zip(targets.targets, runs, strict=True) if run is not None}


def _needed(targets: Targets, where: Sequence[Selector]) -> tuple[str, ...]:
    """Return the clusters that may have a selected target: the others are not queried."""
    by_cluster = [one for one in where if one.key == "cluster"]
    used = {target.cluster for target in targets.targets} | {one.cluster for one in targets.discover}
    names = (name for name in targets.clusters if name in used)
    return tuple(name for name in names if select([Target(name="", cluster=name, database="")], by_cluster))


async def _ask(targets: Targets, name: str, limit: asyncio.Semaphore) -> _Answer:
    cluster = targets.clusters[name]
    queries = [query for query in targets.discover if query.cluster == name]
    database = queries[0].database if queries else next(one.database for one in targets.targets if one.cluster == name)
    async with limit:
        try:
            where = await _place(cluster, database)
        except (PreflightError, GatewayError) as error:
            if queries:
                raise _failed(name, error) from error
            return _Answer(place=None, warnings=(f"cluster {name} cannot be reached now: {error.message}",))
        found = []
        warnings = []
        for query in queries:
            try:
                made = await _discover(cluster, query)
            except (PreflightError, GatewayError) as error:
                raise _failed(name, error) from error
            found.append((query, made))
            if not made:
                warnings.append(f"a query on cluster {name} found no database")
    return _Answer(place=where, found=tuple(found), warnings=tuple(warnings))


def _failed(cluster: str, error: PreflightError | GatewayError) -> PreflightError:
    return PreflightError(
        ended(f"nothing was started: the databases of cluster {cluster} cannot be found: {error.message}"),
        hint=f"{error.hint or ''} To leave the cluster out: --where cluster!={cluster}".strip(),
    )


async def _place(cluster: Cluster, database: str) -> Place:
    async with await Inspector.connect(target_conninfo(cluster, database), _APPLICATION) as inspector:
        return read_place(await inspector.reply("place"), await inspector.reply("system"))


async def _discover(cluster: Cluster, query: Discovery) -> tuple[Target, ...]:
    async with await Inspector.connect(target_conninfo(cluster, query.database), _APPLICATION) as inspector:
        result = await inspector.read((), query.sql)
    if result.error is not None:
        raise PreflightError(f"its query fails: {result.error.message}")
    if _DATABASE not in result.columns:
        got = ", ".join(result.columns) or "none"
        raise PreflightError(f"its query returns no column named database (it returns {got})")
    if _CLUSTER in result.columns:
        raise PreflightError(
            "its query returns a column `cluster`, but `cluster` in a selector is the target's own cluster"
        )
    if len(result.rows) > MAX_TARGETS:
        raise PreflightError(f"its query returns {len(result.rows):,} rows, more than {MAX_TARGETS:,}")
    return tuple(
        _target(query, dict(zip(result.columns, row, strict=True)), number) for number, row in enumerate(result.rows, 1)
    )


def _target(query: Discovery, row: Mapping[str, str | None], number: int) -> Target:
    database = row[_DATABASE]
    if not database:
        raise PreflightError(f"row {number} of its query has no database")
    more = {key: value for key, value in row.items() if key not in (_NAME, _DATABASE) and value is not None}
    return Target(
        name=row.get(_NAME) or database,
        cluster=query.cluster,
        database=database,
        labels={**query.labels, **more},
        params=query.params,
    )


def _check_clusters(answers: Mapping[str, _Answer]) -> None:
    """PreflightError if two names lead to one server: a physical clone has the identifier, but not the start."""
    seen: dict[tuple[str | None, str], str] = {}
    for name, answer in answers.items():
        if answer.place is None:
            continue
        first = seen.setdefault((answer.place.system_identifier, answer.place.started), name)
        if first != name:
            raise PreflightError(
                f"nothing was started: the clusters {first} and {name} are one server (it started "
                f"{answer.place.started}).",
                hint="Its slots would count twice: give it one name.",
            )


def _check_targets(targets: Sequence[Target]) -> None:
    """PreflightError if two targets have one name, or are one database."""
    if len(targets) > MAX_TARGETS:
        raise PreflightError(f"nothing was started: {len(targets):,} targets are more than {MAX_TARGETS:,}.")
    problems = [f"two targets are called {name}" for name in _twice(target.name for target in targets)]
    problems += [
        f"two targets are the database {database} on {cluster}"
        for cluster, database in _twice((target.cluster, target.database) for target in targets)
    ]
    if problems:
        raise _problems("targets are not distinct", problems, hint="A discovery query can return a column `name`.")


def _twice(values: Iterable[_Value]) -> list[_Value]:
    return [value for value, count in Counter(values).items() if count > 1]


def _problems(what: str, problems: Sequence[str], *, hint: str | None = None) -> PreflightError:
    more = f", and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
    return PreflightError(f"nothing was started: {what}: {'; '.join(problems[:_SHOWN])}{more}.", hint=hint)


def _nothing(targets: Targets, everything: Sequence[Target], where: Sequence[Selector]) -> UsageError | PreflightError:
    if not everything:
        return PreflightError("nothing was started: the fleet has no target.", hint="The queries found no database.")
    labels = sorted({key for target in everything for key in target.facts})
    return UsageError(
        f"--where {' '.join(map(str, where))} selects none of {len(everything):,} targets of {targets.name}.",
        hint=f"Selectors can use {', '.join(labels)}.",
    )
