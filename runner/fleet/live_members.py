"""The members of a fleet run as the servers show them: what runs where, and how to cancel it, from any machine.

This reads only from the servers, not from the record of the fleet run, so it works if the machine of the fleet run
cannot be reached. The cancel request to a member says whether the whole fleet run is to end; its process then starts no
further members.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence

from runner.engine.ports import CancelRequest
from runner.engine.server_activity import LiveRun
from runner.errors import ConnectionFailedError, GatewayError, JobplanError
from runner.fleet.discovery import target_conninfo
from runner.fleet.targets import Target, Targets
from runner.gateway.observer import Observer, Stopper
from runner.phrases import counted
from runner.structs import Struct, replace

#: What the name of the user contains if a request is for the whole fleet run; the runner adds the role.
WHOLE = " (the whole fleet run)"
#: Seconds that the workers of a cancelled member get to end.
_PATIENCE = 30.0


class ClusterMembers(Struct, frozen=True, kw_only=True):
    """The members of a fleet run on one cluster, or why it could not be queried."""

    cluster: str
    runs: tuple[LiveRun, ...] = ()
    problem: str | None = None


def is_for_the_fleet(by: str | None) -> bool:
    """Return whether a member was cancelled because the whole fleet run is to end."""
    return by is not None and WHOLE in by


async def members_on_servers(
    targets: Targets, fleet: str, *, chosen: Collection[Target] | None, ledger: str
) -> tuple[ClusterMembers, ...]:
    """Find, on each cluster, the members of a fleet run that have sessions or workers there.

    With `chosen`, only for those of these targets, and only their clusters.
    """
    places = None if chosen is None else {(target.cluster, target.database) for target in chosen}
    names = [name for name in _databases(targets) if places is None or any(name == one for one, _ in places)]
    found = await asyncio.gather(*(_on_cluster(targets, name, fleet, ledger) for name in names))
    if places is None:
        return tuple(found)
    return tuple(
        replace(one, runs=tuple(run for run in one.runs if (one.cluster, run.database) in places)) for one in found
    )


async def cancel_on_servers(
    targets: Targets,
    fleet: str,
    by: str,
    *,
    chosen: Collection[Target] | None,
    ledger: str,
) -> tuple[ClusterMembers, ...]:
    """Cancel every member that runs, or those of the `chosen` targets; return, by cluster, those that still run."""
    before = await members_on_servers(targets, fleet, chosen=chosen, ledger=ledger)
    databases = _databases(targets)
    asked_by = f"{by}{WHOLE}" if chosen is None else by

    async def stop(cluster: str, run: LiveRun) -> None:
        conninfo = target_conninfo(targets.clusters[cluster], databases[cluster])
        request = CancelRequest(run=run.run, step=None, by=asked_by, key=secrets.token_hex(8))
        async with await Observer.connect(conninfo, database=run.database or None, ledger=ledger) as observer:
            await Stopper(observer=observer, run=run, request=request).stop(_PATIENCE)

    results = await asyncio.gather(
        *(stop(one.cluster, run) for one in before for run in one.runs), return_exceptions=True
    )
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, JobplanError):
            raise result
    after = {one.cluster: one for one in await members_on_servers(targets, fleet, chosen=chosen, ledger=ledger)}
    meant = {run.run for one in before for run in one.runs}
    return tuple(
        ClusterMembers(
            cluster=one.cluster,
            runs=tuple(run for run in after[one.cluster].runs if run.run in meant and run.workers),
            problem=one.problem or after[one.cluster].problem,
        )
        for one in before
    )


def _databases(targets: Targets) -> Mapping[str, str]:
    """Return a database of each cluster in which it can be asked."""
    found = {target.cluster: target.database for target in reversed(targets.targets)}
    found |= {query.cluster: query.database for query in targets.discover}
    return {name: found[name] for name in targets.clusters if name in found}


async def _on_cluster(targets: Targets, cluster: str, fleet: str, ledger: str) -> ClusterMembers:
    conninfo = target_conninfo(targets.clusters[cluster], _databases(targets)[cluster])
    try:
        async with await Observer.connect(conninfo, ledger=ledger) as observer:
            activity = await observer.look()
    except (ConnectionFailedError, GatewayError) as error:
        return ClusterMembers(cluster=cluster, problem=error.message)
    runs = tuple(run for run in activity.runs if run.run.startswith(f"{fleet}-"))
    return ClusterMembers(cluster=cluster, runs=runs)


def members_data(clusters: Sequence[ClusterMembers]) -> list[dict[str, object]]:
    """Return the members on each cluster as JSON values."""
    return [
        {
            "cluster": one.cluster,
            "problem": one.problem,
            "runs": [
                {
                    "database": run.database,
                    "run": run.run,
                    "alive": run.alive,
                    "steps": sorted(worker.step for worker in run.workers),
                }
                for run in one.runs
            ],
        }
        for one in clusters
    ]


def member_lines(clusters: Sequence[ClusterMembers]) -> Iterator[str]:
    """Yield one line for each cluster, and one for each of its members."""
    for one in clusters:
        if one.problem is not None:
            yield f"{one.cluster}: cannot be queried: {one.problem}"
            continue
        workers = sum(len(run.workers) for run in one.runs)
        yield f"{one.cluster}: {counted(len(one.runs), 'target')} with {counted(workers, 'worker')}"
        for run in one.runs:
            steps = ", ".join(sorted(worker.step for worker in run.workers)) or "between steps"
            orphaned = "" if run.alive else "  (its runner has ended)"
            yield f"  {run.database}  {run.run}  {steps}{orphaned}"
