"""The targets file: clusters, databases with labels, discovery queries, the rollout; read with every problem at once.

The file has no secrets: the keywords of a connection are an allow-list in the schema, and a password or a URI in it is
refused. `conninfo` has everything that is needed to connect to a target; libpq takes passwords from its password file
and its service file.
"""

from __future__ import annotations

import enum
import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from runner.errors import Problem, Severity, TargetsError, UsageError
from runner.phrases import counted
from runner.plan.problem_collector import Report
from runner.plan.schema_check import check_shape
from runner.plan.yaml_nodes import Fields, Node, Scalar
from runner.plan.yaml_nodes import Mapping as MappingNode
from runner.plan.yaml_nodes import Sequence as SequenceNode
from runner.plan.yaml_reader import read
from runner.secret_words import names_a_secret
from runner.structs import Recorded, Struct, field, replace

SCHEMA = "targets-v1"
#: Targets that are worked on at the same time, unless the file says otherwise.
PARALLEL = 8
#: The wave of a file without waves.
ALL = "all"
#: The database of a discovery query that names none.
DISCOVERY_DATABASE = "postgres"

_HINT = "a targets file begins with `version: 1`"
#: Keys under which users choose the names.
_OF_USERS = frozenset({"labels", "params"})
_SELECTOR = re.compile(r"\s*([A-Za-z0-9_][A-Za-z0-9_.-]*)\s*(!?=)\s*(.*?)\s*")


class OnStop(enum.StrEnum):
    """What happens to members that run when the fleet run stops."""

    DRAIN = "drain"
    CANCEL = "cancel"


class Selector(Recorded, frozen=True, kw_only=True):
    """One condition on a target: a label, or `name`, `cluster` or `database`, matches a shell pattern, or does not."""

    key: str
    pattern: str
    negated: bool = False

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Read `tier=gold`, `name=tenant_*`, `region!=eu`. ValueError, with the reason, if it is none."""
        found = _SELECTOR.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not a selector such as tier=gold or region!=eu")
        key, sign, pattern = found.groups()
        if not pattern:
            raise ValueError(f"{text!r} has no value after {sign}")
        return cls(key=key, pattern=pattern, negated=sign == "!=")

    def matches(self, target: Target) -> bool:
        """Return whether the target meets the condition; a target without the label meets only a negated one."""
        value = target.facts.get(self.key)
        return (value is not None and fnmatch.fnmatchcase(value, self.pattern)) is not self.negated

    def __str__(self) -> str:
        return f"{self.key}{'!=' if self.negated else '='}{self.pattern}"


class Target(Recorded, frozen=True, kw_only=True):
    """One database of the fleet. `labels` and `params` are texts."""

    name: str
    cluster: str
    database: str
    labels: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> Mapping[str, str]:
        """The facts that selectors can compare."""
        return {**self.labels, "name": self.name, "cluster": self.cluster, "database": self.database}


class Cluster(Recorded, frozen=True, kw_only=True):
    """One server: libpq's keywords for a connection, and how many workers and members it takes."""

    name: str
    connection: Mapping[str, str]
    slots: int
    parallel: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class Discovery(Recorded, frozen=True, kw_only=True):
    """A query that returns databases of a cluster, and what they get as labels and parameters."""

    cluster: str
    sql: str
    database: str = DISCOVERY_DATABASE
    labels: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


_Labelled = TypeVar("_Labelled", Target, Discovery)


class Limits(Recorded, frozen=True, kw_only=True):
    """How many members may fail; `rate` is a part of the members, from 0 to 1. None: no limit."""

    failures: int | None = None
    rate: float | None = None

    def exceeded(self, failed: int, members: int) -> str | None:
        """Return which limit so many failures exceed, in words; None if they exceed none."""
        if self.failures is not None and failed > self.failures:
            return f"{failed} failed, max_failures is {self.failures}"
        if self.rate is not None and failed > self.rate * members:
            return f"{failed} of {members} failed, max_failure_rate is {self.rate * 100:g}%"
        return None


class Wave(Recorded, frozen=True, kw_only=True):
    """A group of targets; `where` None: those that no other wave takes. `pause` is in seconds."""

    name: str
    where: tuple[Selector, ...] | None = None
    parallel: int | None = None
    limits: Limits = Limits()
    pause: float = 0.0


class Rollout(Recorded, frozen=True, kw_only=True):
    """The order of the targets, and when the fleet run stops."""

    parallel: int = PARALLEL
    waves: tuple[Wave, ...] = (Wave(name=ALL),)
    stop: Limits = Limits()
    on_stop: OnStop = OnStop.DRAIN


class Targets(Recorded, frozen=True, kw_only=True):
    """A targets file; after discovery `targets` has every target, in order, and `discover` is empty."""

    name: str
    clusters: Mapping[str, Cluster]
    targets: tuple[Target, ...] = ()
    discover: tuple[Discovery, ...] = ()
    rollout: Rollout = Rollout()
    file: str = ""


def parse_selectors(texts: Iterable[str]) -> tuple[Selector, ...]:
    """Read the values of --where. UsageError if one is no selector."""
    try:
        return tuple(Selector.parse(text) for text in texts)
    except ValueError as error:
        raise UsageError(f"--where: {error}.") from None


def select(targets: Sequence[Target], where: Sequence[Selector]) -> tuple[Target, ...]:
    """Return the targets that meet every condition, in order."""
    return tuple(target for target in targets if all(one.matches(target) for one in where))


def read_targets(path: Path) -> Targets:
    """Read a targets file. TargetsError, with every problem, if it is not valid; nothing in it raises anything else."""
    targets, problems = load_targets(path)
    if targets is None:
        errors = tuple(problem for problem in problems if problem.severity is Severity.ERROR)
        count = counted(len(errors), "problem")
        raise TargetsError(f"{path} is not a valid targets file: {count}", errors)
    return targets


def load_targets(path: Path) -> tuple[Targets | None, tuple[Problem, ...]]:
    """Read a targets file; None if it has an error. The problems are in the order of the file."""
    report = Report()
    root = read(path, str(path), report, hint=_HINT)
    targets = None if root is None else _build(root, str(path), report)
    return (None if report.has_errors else targets), report.problems()


def _build(root: MappingNode, file: str, report: Report) -> Targets:
    _refuse_secrets(root, report)
    fields = Fields(root.values, root, report, check_shape(root, report, name=SCHEMA))
    clusters = {name: _cluster(name, part) for name, part in _mappings(fields.mapping("clusters"))}
    known = fields.mapping("clusters")
    names = () if known is None else tuple(known.present)
    targets = tuple(_labelled(_target(part, names), clusters) for part in _items(fields, "targets"))
    discover = tuple(_labelled(_discovery(part, names), clusters) for part in _items(fields, "discover"))
    _check_names(fields)
    if not fields.has("targets") and not fields.has("discover"):
        report.add(root, "JP102", "the file has neither `targets` nor `discover`", hint="list databases, or a query")
    rollout = fields.mapping("rollout")
    return Targets(
        name=fields.text("name"),
        clusters=clusters,
        targets=targets,
        discover=discover,
        rollout=Rollout() if rollout is None else _rollout(rollout),
        file=file,
    )


def _refuse_secrets(root: MappingNode, report: Report) -> None:
    """Report passwords and URIs: a targets file is checked in, and its content is recorded."""
    for found in _secret_keys(root):
        report.add(
            found,
            "JP272",
            f"`{found.text[:60]}` is a secret, and a targets file must not contain any",
            hint="write it into a password file (~/.pgpass, or `passfile`) or a service file",
        )
    clusters = root.values.get("clusters")
    for cluster in clusters.values.values() if isinstance(clusters, MappingNode) else ():
        connection = cluster.values.get("connection") if isinstance(cluster, MappingNode) else None
        if isinstance(connection, Scalar):
            report.add(
                connection,
                "JP272",
                "a connection string may contain a password",
                hint="write its keywords: {host: …, port: …, user: …}, or {service: …}",
            )
        for key, value in connection.values.items() if isinstance(connection, MappingNode) else ():
            if isinstance(value, Scalar) and "://" in value.text:
                report.add(value, "JP272", f"`{key}` is a URI, which may contain a password", hint="write keywords")


def _secret_keys(node: Node) -> Iterator[Scalar]:
    """Yield the keys that name a secret, apart from names that users choose (labels, params, clusters)."""
    if isinstance(node, SequenceNode):
        for item in node.items:
            yield from _secret_keys(item)
    elif isinstance(node, MappingNode):
        for key, value in node.values.items():
            if names_a_secret(key):
                yield node.keys[key]
            elif key == "clusters" and isinstance(value, MappingNode):
                for cluster in value.values.values():
                    yield from _secret_keys(cluster)
            elif key not in _OF_USERS:
                yield from _secret_keys(value)


def _mappings(fields: Fields | None) -> Iterator[tuple[str, Fields]]:
    for name, node in () if fields is None else fields.pairs():
        if isinstance(node, MappingNode) and fields is not None:
            yield name, fields.within(node)


def _items(fields: Fields, key: str) -> Iterator[Fields]:
    return (fields.within(node) for node in fields.items(key) if isinstance(node, MappingNode))


def _texts(fields: Fields, key: str) -> Mapping[str, str]:
    part = fields.mapping(key)
    if part is None:
        return MappingProxyType({})
    return {name: node.text for name, node in part.pairs() if isinstance(node, Scalar)}


def _cluster(name: str, fields: Fields) -> Cluster:
    return Cluster(
        name=name,
        connection=_texts(fields, "connection"),
        slots=fields.integer("slots", 1),
        parallel=fields.integer("parallel", 0) or None,
        labels=_labels(fields),
    )


def _of_cluster(fields: Fields, clusters: Sequence[str]) -> str:
    node = fields.scalar("cluster")
    if node is not None and node.text not in clusters:
        hint = fields.report.guesses.did_you_mean(node.text, clusters)
        fields.add(node, "JP270", f"there is no cluster `{node.text}` in `clusters`", hint=hint)
    return fields.text("cluster")


def _labelled(one: _Labelled, clusters: Mapping[str, Cluster]) -> _Labelled:
    """Return a target or a query with the labels of its cluster, besides its own, which count if both have one."""
    cluster = clusters.get(one.cluster)
    return one if cluster is None else replace(one, labels={**cluster.labels, **one.labels})


def _target(fields: Fields, clusters: Sequence[str]) -> Target:
    database = fields.text("database")
    return Target(
        name=fields.text("name", database),
        cluster=_of_cluster(fields, clusters),
        database=database,
        labels=_labels(fields),
        params=_texts(fields, "params"),
    )


def _labels(fields: Fields) -> Mapping[str, str]:
    labels = _texts(fields, "labels")
    for name in ("name", "cluster", "database"):
        if name in labels:
            fields.add(fields, "JP274", f"`{name}` cannot be a label: selectors use that word for the target's own")
    return labels


def _discovery(fields: Fields, clusters: Sequence[str]) -> Discovery:
    return Discovery(
        cluster=_of_cluster(fields, clusters),
        sql=fields.text("sql"),
        database=fields.text("database", DISCOVERY_DATABASE),
        labels=_labels(fields),
        params=_texts(fields, "params"),
    )


def _check_names(fields: Fields) -> None:
    """Report targets that are listed twice, by name or by database."""
    seen: dict[tuple[str, ...], Node] = {}
    for node in fields.items("targets"):
        if not isinstance(node, MappingNode):
            continue
        part = fields.within(node)
        database, cluster = part.text("database"), part.text("cluster")
        name = part.text("name", database)
        for key, what in (
            (("name", name), f"the name `{name}`"),
            (("database", cluster, database), f"the database `{database}` on `{cluster}`"),
        ):
            first = seen.setdefault(key, node)
            if first is not node and name and database and cluster:
                fields.add(node, "JP271", f"{what} is already used by the target at {first.position}")
                break


def _rollout(fields: Fields) -> Rollout:
    waves = tuple(_wave(part) for part in _items(fields, "waves"))
    names: dict[str, Fields] = {}
    for part, wave in zip(_items(fields, "waves"), waves, strict=True):
        first = names.setdefault(wave.name, part)
        if first is not part:
            part.add(part, "JP271", f"the name `{wave.name}` is already used by the wave at {first.position}")
    rests = [part for part, wave in zip(_items(fields, "waves"), waves, strict=True) if wave.where is None]
    for part in rests[1:]:
        part.add(
            part, "JP273", f"two waves have no `where`: the one at {rests[0].position} takes all remaining targets"
        )
    stop = fields.mapping("stop")
    return Rollout(
        parallel=fields.integer("parallel", PARALLEL),
        waves=waves or (Wave(name=ALL),),
        stop=Limits() if stop is None else _limits(stop),
        on_stop=fields.choice("on_stop", OnStop.DRAIN),
    )


def _wave(fields: Fields) -> Wave:
    selectors = []
    for node in fields.items("where"):
        if isinstance(node, Scalar):
            try:
                selectors.append(Selector.parse(node.text))
            except ValueError as error:
                fields.add(node, "JP274", str(error))
    return Wave(
        name=fields.text("name"),
        where=tuple(selectors) if fields.has("where") else None,
        parallel=fields.integer("parallel", 0) or None,
        limits=_limits(fields),
        pause=fields.duration("pause", 0.0, zero=True) or 0.0,
    )


def _limits(fields: Fields) -> Limits:
    rate = fields.text("max_failure_rate")
    return Limits(
        failures=fields.integer("max_failures", 0) if fields.has("max_failures") else None,
        rate=float(rate.removesuffix("%")) / 100 if rate else None,
    )


class PlacedTargets(Struct, frozen=True, kw_only=True):
    """The targets of each wave, in order, and why some have no place in exactly one wave."""

    waves: tuple[tuple[Wave, tuple[Target, ...]], ...]
    problems: tuple[str, ...] = ()


def place(targets: Sequence[Target], waves: Sequence[Wave]) -> PlacedTargets:
    """Assign each target to its wave; a target in no wave, or in two, is a problem."""
    members: dict[str, list[Target]] = {wave.name: [] for wave in waves}
    rest = next((wave.name for wave in waves if wave.where is None), None)
    problems = []
    for target in targets:
        fitting = [
            wave.name for wave in waves if wave.where is not None and all(one.matches(target) for one in wave.where)
        ] or ([rest] if rest is not None else [])
        if len(fitting) == 1:
            members[fitting[0]].append(target)
        elif fitting:
            problems.append(f"the target {target.name} is in the waves {' and '.join(fitting)}")
        else:
            problems.append(f"the target {target.name} is in no wave")
    return PlacedTargets(
        waves=tuple((wave, tuple(members[wave.name])) for wave in waves),
        problems=tuple(problems),
    )
