"""A dry run on every target: equal findings are one finding with the targets that have it, and relations are compared.

A fleet is meant to have one schema. Where targets differ in a relation that the plan uses (drift), the shape that most
of them have is shown once, and each deviation with its targets.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from runner.errors import ConnectionFailedError, GatewayError, JobplanError, Position, PreflightError, Problem, Severity
from runner.exit_codes import ExitCode
from runner.fleet.discovery import Resolved, target_conninfo
from runner.fleet.messages import listed_targets, normalised
from runner.fleet.plans import FleetPlans
from runner.fleet.targets import Target, Targets
from runner.gateway.catalog import RelationFacts
from runner.gateway.inspection import Inspector
from runner.phrases import counted
from runner.preflight.dry_run import DryRunOptions, dry_run
from runner.preflight.dry_run_result import DryRun
from runner.structs import Struct, picked

#: Where most targets have no relation of this name.
ABSENT = "does not exist"


class GroupedFinding(Struct, frozen=True, kw_only=True):
    """A finding, and the targets that have it, apart from names and numbers in its message."""

    problem: Problem
    message: str
    targets: tuple[str, ...]


class Drift(Struct, frozen=True, kw_only=True):
    """A relation that is not the same everywhere: what most targets have, and how others deviate."""

    relation: str
    usual: int
    deviations: tuple[tuple[str, tuple[str, ...]], ...]


class FleetDryRun(Struct, frozen=True, kw_only=True):
    """The result on all targets. `unreachable` has the targets that could not be checked, with the reason."""

    targets: int
    findings: tuple[GroupedFinding, ...]
    drift: tuple[Drift, ...]
    unreachable: tuple[tuple[str, str], ...]
    unmet: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def errors(self) -> int:
        """Return how many findings are errors."""
        return sum(one.problem.severity is Severity.ERROR for one in self.findings)

    def exit_code(self, *, strict: bool = False) -> int:
        """Return 4 if a target cannot be checked or would not start, 3 if a step would fail somewhere, 9, or 0."""
        if self.unreachable or self.refused:
            return ExitCode.NOT_STARTED
        if self.errors or (strict and (self.findings or self.drift)):
            return ExitCode.INVALID_PLAN
        return ExitCode.REQUIREMENT_UNMET if self.unmet else ExitCode.SUCCESS


async def look(
    resolved: Resolved, plans: FleetPlans, *, explain: bool = True, trusted_roles: Sequence[str] = ()
) -> FleetDryRun:
    """Check the plan on every target, as many at a time as the rollout allows."""
    targets = resolved.targets
    limit = asyncio.Semaphore(targets.rollout.parallel)
    per_cluster = {
        name: asyncio.Semaphore(cluster.parallel or targets.rollout.parallel)
        for name, cluster in targets.clusters.items()
    }

    async def one(target: Target) -> DryRun | JobplanError:
        async with limit, per_cluster[target.cluster]:
            try:
                return await _look_at(target, targets, plans, explain=explain, trusted_roles=tuple(trusted_roles))
            except (PreflightError, GatewayError) as error:
                return error

    results = await asyncio.gather(*(one(target) for target in targets.targets))
    found = dict(zip((target.name for target in targets.targets), results, strict=True))
    checked = {name: result for name, result in found.items() if isinstance(result, DryRun)}
    return FleetDryRun(
        targets=len(found),
        findings=tuple(grouped(checked)),
        drift=tuple(drift({name: result.relations for name, result in checked.items()})),
        unreachable=tuple((name, one.message) for name, one in found.items() if isinstance(one, JobplanError)),
        unmet=tuple(name for name, result in checked.items() if result.unmet and not result.skipped),
        refused=tuple(name for name, result in checked.items() if result.refused and not result.unmet),
    )


async def _look_at(
    target: Target, targets: Targets, plans: FleetPlans, *, explain: bool, trusted_roles: tuple[str, ...]
) -> DryRun:
    plan, left_out = plans.of(target)
    conninfo = target_conninfo(targets.clusters[target.cluster], target.database)
    options = DryRunOptions(explain=explain, left_out=left_out, trusted_roles=trusted_roles)
    async with await Inspector.connect(conninfo, "jobplan fleet dry-run") as inspector:
        try:
            return await dry_run(plan, inspector, options)
        except GatewayError as error:
            raise ConnectionFailedError(f"the connection to the server was lost: {error.message}") from error


def grouped(results: Mapping[str, DryRun]) -> Iterator[GroupedFinding]:
    """Yield each finding once with its targets: errors first, then the most frequent."""
    groups: dict[tuple[str, Severity, str | None, Position, str], list[tuple[str, Problem]]] = defaultdict(list)
    for name, result in results.items():
        for problem in result.problems:
            key = (problem.code, problem.severity, problem.step, problem.position, normalised(problem.message))
            groups[key].append((name, problem))
    found = []
    for key, members in groups.items():
        texts = {problem.message for _, problem in members}
        message = texts.pop() if len(texts) == 1 else key[-1]
        names = tuple(dict.fromkeys(name for name, _ in members))
        found.append(GroupedFinding(problem=members[0][1], message=message, targets=names))
    yield from sorted(found, key=lambda one: (one.problem.severity is not Severity.ERROR, -len(one.targets)))


def drift(relations: Mapping[str, Iterable[RelationFacts]]) -> Iterator[Drift]:
    """Yield the relations that differ between targets; those that no target has are findings of each."""
    shapes: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for name, facts in relations.items():
        for one in facts:
            shapes[str(one.relation)][name] = shape(one)
    for relation, by_target in sorted(shapes.items()):
        everywhere = {name: by_target.get(name, ()) for name in relations}
        counts = Counter(everywhere.values())
        usual, number = counts.most_common(1)[0]
        if len(counts) == 1:
            continue
        deviations: dict[str, list[str]] = defaultdict(list)
        for name, found in everywhere.items():
            if found != usual:
                deviations[difference(usual, found)].append(name)
        yield Drift(
            relation=relation,
            usual=number,
            deviations=tuple((what, tuple(names)) for what, names in deviations.items()),
        )


_KINDS = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "i": "index",
    "f": "foreign table",
}


def shape(facts: RelationFacts) -> tuple[str, ...]:
    """Return what makes a relation the same as another one: its kind, columns with types, constraints and indexes."""
    kind = _KINDS.get(facts.kind, facts.kind)
    columns = (f"column {name} {type_}" for name, type_ in facts.types.items())
    indexes = (
        f"{'' if index.valid else 'INVALID '}{'unique ' if index.unique else ''}index {index.relation.name}"
        for index in facts.indexes
    )
    return (f"a {kind}", *columns, *(f"constraint {name}" for name in sorted(facts.constraints)), *sorted(indexes))


def difference(usual: Sequence[str], found: Sequence[str]) -> str:
    """Return how a shape deviates from the usual one, in words."""
    if not found:
        return ABSENT
    if not usual:
        return "exists"
    missing = [one for one in usual if one not in found]
    more = [one for one in found if one not in usual]
    parts = [f"lacks {', '.join(missing)}"] if missing else []
    parts += [f"has {', '.join(more)}"] if more else []
    return "; ".join(parts) or "has its columns in another order"


def result_lines(result: FleetDryRun) -> Iterator[str]:
    """Yield the report as text."""
    for name, why in result.unreachable:
        yield f"{name}: cannot be checked: {why}"
    for one in result.findings:
        problem = one.problem
        step = f"step {problem.step}: " if problem.step else ""
        yield f"{problem.position}: {problem.severity} {problem.code} {step}{one.message}"
        yield f"  {len(one.targets):,} of {counted(result.targets, 'target')}: {listed_targets(one.targets)}"
        if problem.hint:
            yield f"  {problem.hint}"
    for each in result.drift:
        yield f"{each.relation} is not the same everywhere; {counted(each.usual, 'target')} agree"
        for what, names in each.deviations:
            yield f"  {what}: {listed_targets(names)}"
    checked = result.targets - len(result.unreachable)
    warnings = len(result.findings) - result.errors
    yield (
        f"{counted(checked, 'target')} checked: {counted(result.errors, 'error')}, {counted(warnings, 'warning')}, "
        f"{counted(len(result.drift), 'relation')} with drift"
    )


def result_data(result: FleetDryRun) -> dict[str, object]:
    """Return the result as JSON values."""
    findings = [
        {
            "code": one.problem.code,
            "severity": str(one.problem.severity),
            "step": one.problem.step,
            "message": one.message,
            **picked(one.problem.position, "file", "line", "column"),
            "hint": one.problem.hint,
            "targets": list(one.targets),
        }
        for one in result.findings
    ]
    drift = [
        {
            "relation": one.relation,
            "agree": one.usual,
            "deviations": [{"difference": what, "targets": list(names)} for what, names in one.deviations],
        }
        for one in result.drift
    ]
    unreachable = [{"target": name, "reason": why} for name, why in result.unreachable]
    return {"targets": result.targets, "findings": findings, "drift": drift, "unreachable": unreachable}
