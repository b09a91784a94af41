"""Every statement of a plan, looked at on a server that runs none of them.

The order of the work: what each step runs in, the items of its for_each, its statements, what all of them need of the
catalog, and then one statement after the other, in an order in which the steps can run.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from runner.engine.events import Item, Rows
from runner.engine.items import literal_items, queried_items
from runner.errors import Position, Problem, Severity
from runner.gateway.catalog import FunctionFacts
from runner.gateway.inspection import Inspector, Settings
from runner.lint.locking.names import relation_in
from runner.plan.graph import topological_order
from runner.plan.model import Plan, Step
from runner.preflight.finding import Finding, problem
from runner.preflight.made import Changes
from runner.preflight.planned import ANALYSED, EXPLAINED, Judged, judge, may_do_anything, run_by_the_planner
from runner.preflight.result import Coverage, StatementReport
from runner.preflight.seen import Sight, State, Surroundings
from runner.preflight.texts import MAX_INSTANCES, Unit, Unreadable, base_values, step_units, units_of
from runner.preflight.utilities import FULLY, NOT_CHECKABLE, PARTLY, absent, check_utility, is_guarded_away
from runner.sql.alter import alter_actions
from runner.sql.effects import Effect, effect
from runner.sql.facts import created_index, functions_called
from runner.sql.kinds import StatementKind
from runner.sql.objects import Action, Change, Sort, changes, needed
from runner.sql.relations import Relation, query_relations

#: Characters of a statement that reports show.
_SHOWN = 100


@dataclass(slots=True, kw_only=True)
class Looked:
    """What came of looking at all statements; `units` and `sights` are for those who look further."""

    problems: list[Problem] = field(default_factory=list)
    reports: list[StatementReport] = field(default_factory=list)
    #: What the lists of for_each gave, by step.
    rows: dict[str, Rows] = field(default_factory=dict)
    units: list[tuple[Unit, Sight, StatementReport]] = field(default_factory=list)


class StatementLook:
    """Looks at the statements of one plan. `explain` False leaves out EXPLAIN, and with it all that planning runs."""

    def __init__(self, plan: Plan, inspector: Inspector, *, explain: bool) -> None:
        self._plan = plan
        self._inspector = inspector
        self._explain = explain
        self._changes = Changes(plan)
        self._around: dict[str, Surroundings] = {}
        self._looked = Looked()
        #: Instances whose `if` is false as things stand.
        self._skipped: set[str] = set()
        self._values = base_values(plan)

    async def look(self, *, left_out: frozenset[str] = frozenset()) -> Looked:
        """Look at every statement but those of steps that are `left_out`."""
        steps = [step for step in self._in_order() if step.id not in left_out]
        units: dict[str, list[Unit]] = {}
        for step in steps:
            for key in ("sql", "if"):
                await self._surround(step, key)
        lists = {step.id: await self._list_unit(step) for step in steps}
        self._note_changes(steps)
        await self._read_catalog([unit for unit in lists.values() if unit is not None])
        for step in steps:
            units[step.id] = await self._units(step, lists[step.id])
        everything = [unit for step in steps for unit in units[step.id]]
        await self._read_catalog(everything)
        self._note_functions(everything)
        for step in steps:
            for unit in units[step.id]:
                await self._look_at(unit)
        place = {step.id: number for number, step in enumerate(steps)}
        self._looked.reports.sort(key=lambda report: place[report.step])
        return self._looked

    def _in_order(self) -> Iterator[Step]:
        steps = {step.id: step for step in (*self._plan.steps, *self._plan.finally_)}
        needs = {name: [need.step for need in step.needs] for name, step in steps.items()}
        final = {step.id for step in self._plan.finally_}
        for name in sorted(topological_order(needs), key=lambda name: name in final):
            yield steps[name]

    def _tell(
        self, code: str, message: str, position: Position, step: Step | None, **more: str | Severity | None
    ) -> None:
        hint, severity = more.get("hint"), more.get("severity")
        self._looked.problems.append(
            problem(
                code,
                message,
                position,
                hint=hint if isinstance(hint, str) else None,
                step=step.id if step is not None else None,
                severity=severity if isinstance(severity, Severity) else None,
            )
        )

    # --- what a step runs in ------------------------------------------------------------------------------------------

    def _settings(self, step: Step, *, condition: bool) -> Settings:
        path = self._inspector.search_path if step.search_path is None else step.search_path
        settings = {"search_path": path, **({} if condition else step.settings)}
        if step.role is not None:
            settings["role"] = step.role
        return tuple(settings.items())

    def _name_of(self, step: Step, key: str) -> str:
        return json.dumps(self._settings(step, condition=key != "sql"))

    async def _surround(self, step: Step, key: str) -> None:
        name = self._name_of(step, key)
        if name in self._around:
            return
        settings = self._settings(step, condition=key != "sql")
        reply = await self._inspector.surroundings(settings)
        if reply.error is None:
            role, schemas = reply.rows[0]
            self._around[name] = Surroundings(settings=settings, role=role or "", schemas=json.loads(schemas or "[]"))
            return
        message = reply.error.message
        code = "JP522" if step.role is not None and "role" in message else "JP523"
        self._tell(code, f"step `{step.id}`: {message}", step.position, step)
        self._around[name] = Surroundings(settings=settings, role="", schemas=())

    def _sight(self, unit: Unit) -> Sight:
        step = unit.step
        around = self._around[self._name_of(step, unit.key)] if step is not None else next(iter(self._around.values()))
        return Sight(unit, around, self._changes)

    # --- what is to be looked at --------------------------------------------------------------------------------------

    def _note_changes(self, steps: list[Step]) -> None:
        """Take note of what every step changes; items of a query are not known yet, and what they name neither."""
        for step in steps:
            items = literal_items(step)
            variants = [item.values for item in items] if items else [{}]
            for values in variants[:MAX_INSTANCES]:
                try:
                    units = list(units_of(step.sql, {**self._values, **values}, step=step, instance=step.id, key="sql"))
                except KeyError:
                    continue
                for unit in units:
                    if isinstance(unit, Unit):
                        self._changes.note(step.id, unit.number, changes(unit.statement))

    def _note_functions(self, units: list[Unit]) -> None:
        """A VOLATILE function that is not built in may have made anything before the next statement."""
        anything = (Change(action=Action.CREATE, sort=Sort.ANYTHING),)
        for unit in units:
            if unit.step is None or unit.key != "sql":
                continue
            known = self._sight(unit).around.functions
            called = (facts for call in functions_called(unit.statement) for facts in known.get(call.name, ()))
            if any(facts.volatility == "v" and facts.extension is None for facts in called):
                self._changes.note(unit.step.id, unit.number, anything)

    async def _list_unit(self, step: Step) -> Unit | None:
        for_each = step.for_each
        if for_each is None or for_each.sql is None:
            return None
        for unit in units_of(for_each.sql, self._values, step=step, instance=step.id, key="for_each.sql"):
            if isinstance(unit, Unit):
                return unit
            self._unreadable(unit)
        return None

    async def _units(self, step: Step, listed: Unit | None) -> list[Unit]:
        if step.for_each is None:
            items: tuple[Item, ...] | None = ()
        elif step.for_each.sql is None:
            items = literal_items(step)
        else:
            items = await self._items(step, listed) if listed is not None else None
        if items is None:
            return []
        if step.for_each is not None and len(items) > MAX_INSTANCES:
            self._more(step, len(items))
        found = []
        for unit in step_units(step, self._values, items):
            if isinstance(unit, Unit):
                found.append(unit)
                if step.for_each is not None and step.for_each.sql is not None and unit.key == "sql":
                    self._changes.note(step.id, unit.number, changes(unit.statement))
            else:
                self._unreadable(unit)
        if step.for_each is not None and not items:
            self._report_step(step, "the list of for_each is empty now: there is nothing to do", Coverage.CHECKED)
        return found

    def _unreadable(self, unit: Unreadable) -> None:
        self._tell("JP606", unit.message, unit.position, unit.step)

    def _more(self, step: Step, count: int) -> None:
        message = f"of {count} items the first {MAX_INSTANCES} are looked at"
        self._report_step(step, message, Coverage.PARTLY)

    def _report_step(self, step: Step, why: str, coverage: Coverage, key: str = "for_each") -> None:
        self._looked.reports.append(
            StatementReport(step=step.id, instance=step.id, key=key, text="", command="", coverage=coverage, why=(why,))
        )

    async def _items(self, step: Step, unit: Unit) -> tuple[Item, ...] | None:
        """Return the rows of a for_each's query, or None if it cannot be asked now."""
        sight = self._sight(unit)
        if not await self._look_at(unit):
            self._report_step(step, "its items are not known before its list can be read", Coverage.NOT, "sql")
            return None
        if effect(unit.statement) is not Effect.READS and not self._harmless(unit, sight):
            why = "its list was not read: it calls a function that may do more than read"
            self._report_step(step, why, Coverage.NOT, "sql")
            return None
        result = await self._inspector.read(sight.around.settings, unit.sql)
        if result.error is not None:
            self._tell("JP619", f"for_each: {result.error.message}", unit.at(0), step)
            return None
        repeated = [name for name in result.columns if result.columns.count(name) > 1 or name == "?column?"]
        if repeated:
            message = f"for_each: its columns need names of their own, and {repeated[0]} is not one"
            self._tell("JP619", message, unit.at(0), step)
            return None
        self._looked.rows[step.id] = Rows(columns=result.columns, rows=result.rows)
        return queried_items(step, result.columns, result.rows)

    @staticmethod
    def _harmless(unit: Unit, sight: Sight) -> bool:
        """Return whether every function that is not built in is marked as reading only, in a trusted language."""
        if effect(unit.statement) is Effect.WRITES:
            return False
        called = {call.name for call in functions_called(unit.statement)}
        own = [facts for name in called for facts in sight.around.functions.get(name, ())]
        return all(facts.volatility != "v" for facts in own) and may_do_anything(own) is None

    async def _read_catalog(self, units: list[Unit]) -> None:
        """Ask for everything that the statements name, in few questions."""
        wanted: dict[str, set[Relation]] = defaultdict(set)
        made: dict[str, set[Relation]] = defaultdict(set)
        indexes: dict[str, set[tuple[str, Relation]]] = defaultdict(set)
        names: set[str] = set()
        for unit in units:
            if unit.step is None:
                continue
            index = created_index(unit.statement)
            if index is not None and index.index is not None:
                indexes[self._name_of(unit.step, unit.key)].add((index.index.name, index.table))
            around = self._name_of(unit.step, unit.key)
            wanted[around] |= _relations(unit)
            made[around] |= {one.relation for one in changes(unit.statement) if one.relation is not None}
            names |= {call.name for call in functions_called(unit.statement)}
        functions: dict[str, list[FunctionFacts]] = defaultdict(list)
        for facts in await self._inspector.functions(sorted(names)):
            functions[facts.name].append(facts)
        for name, relations in wanted.items():
            seen = self._around[name]
            seen.functions = {**seen.functions, **functions}
            await self._fill(seen, relations | made[name])
            placed = {seen.placed(relation) for relation in made[name]}
            placed |= {Relation(seen.placed(table).schema, index) for index, table in indexes[name]}
            await self._fill(seen, placed)
            schemas = {relation.schema for relation in seen.relations if relation.schema}
            asked = schemas | {one.schema for one in relations | placed if one.schema} | _named_schemas(units)
            seen.known_schemas |= await self._inspector.schemas(sorted(asked), seen.role)

    async def _fill(self, around: Surroundings, relations: set[Relation]) -> None:
        unknown = sorted(relations - around.relations.keys(), key=str)
        around.relations |= await self._inspector.relations(unknown, around.schemas, around.role)

    # --- one statement ------------------------------------------------------------------------------------------------

    async def _look_at(self, unit: Unit) -> bool:
        """Look at one statement, note what was found, and say whether it could be run now as far as is known."""
        sight = self._sight(unit)
        report, findings = await self._judged(unit, sight)
        self._looked.reports.append(report)
        self._looked.units.append((unit, sight, report))
        skipped = unit.instance in self._skipped
        then = "; its `if` is false now, and the step would be skipped" if skipped else ""
        for one in dict.fromkeys(findings):
            severity = Severity.WARNING if skipped else one.severity
            position = unit.within(one.offset)
            self._tell(one.code, one.message + then, position, unit.step, hint=one.hint, severity=severity)
        good = not findings and report.coverage is not Coverage.NOT
        if good and unit.key == "if" and effect(unit.statement) is Effect.READS:
            answer = await self._inspector.read(sight.around.settings, unit.sql)
            if answer.error is None and not any(row[0] == "t" for row in answer.rows):
                self._skipped.add(unit.instance)
        return good

    async def _judged(self, unit: Unit, sight: Sight) -> tuple[StatementReport, list[Finding]]:
        kind = unit.statement.kind
        if kind in NOT_CHECKABLE and kind is not StatementKind.CALL:
            probe = await self._inspector.probe(sight.around.settings, unit.sql, explain=False)
            judged = judge(unit, probe, sight)
            return _report(unit, Coverage.NOT, why=(NOT_CHECKABLE[kind],)), list(judged.findings)
        if kind in ANALYSED:
            return await self._planned(unit, sight)
        return await self._utility(unit, sight)

    async def _planned(self, unit: Unit, sight: Sight) -> tuple[StatementReport, list[Finding]]:
        findings, why = _of_relations(unit, sight)
        if unit.statement.kind in {StatementKind.CREATE_TABLE_AS, StatementKind.CREATE_MATERIALIZED_VIEW}:
            findings += [
                one for one in check_utility(unit, sight) if one not in findings and not _is_known(one, findings)
            ]
        if why or findings:
            return _report(unit, Coverage.NOT if why else Coverage.PARTLY, why=tuple(why)), findings
        functions = run_by_the_planner(unit, sight)
        unsafe = may_do_anything(functions)
        guarded = is_guarded_away(unit, sight)
        explain = self._explain and unit.statement.kind in EXPLAINED and unsafe is None and not guarded
        probe = await self._inspector.probe(sight.around.settings, unit.sql, explain=explain)
        judged = judge(unit, probe, sight)
        return self._planned_report(unit, judged, explain=explain, functions=functions, locks=probe.locks), list(
            judged.findings
        )

    def _planned_report(
        self,
        unit: Unit,
        judged: Judged,
        *,
        explain: bool,
        functions: tuple[FunctionFacts, ...],
        locks: tuple[tuple[str | None, ...], ...],
    ) -> StatementReport:
        why, notes = list(judged.why), []
        unsafe = may_do_anything(functions)
        if unit.statement.kind is StatementKind.CALL:
            why.append(NOT_CHECKABLE[StatementKind.CALL])
        elif not explain and unsafe is not None:
            why.append(f"it was not explained: planning may run {unsafe.name}(), in the untrusted {unsafe.language}")
        elif not explain and not self._explain:
            why.append("it was not explained (--no-explain): privileges and costs are not known")
        if explain and functions:
            names = ", ".join(f"{facts.name}()" for facts in functions)
            notes.append(f"planning may have run {names}: marked STABLE or IMMUTABLE, and held to reading")
        coverage = Coverage.NOT if judged.blind else Coverage.PARTLY if why or judged.findings else Coverage.CHECKED
        return _report(
            unit,
            coverage,
            why=tuple(why),
            notes=tuple(notes),
            cost=judged.cost,
            rows=judged.rows,
            locks=tuple((str(Relation(row[0], row[1] or "")), row[2] or "") for row in locks),
        )

    async def _utility(self, unit: Unit, sight: Sight) -> tuple[StatementReport, list[Finding]]:
        probe = await self._inspector.probe(sight.around.settings, unit.sql, explain=False)
        judged = judge(unit, probe, sight)
        findings = [*judged.findings, *check_utility(unit, sight)]
        unseen = [sight.relation(one.relation) for one in needed(unit.statement)]
        why = [one.why for one in unseen if one.state in {State.NEW, State.PERHAPS, State.UNKNOWN}]
        kind = unit.statement.kind
        if why:
            return _report(unit, Coverage.NOT, why=tuple(why)), findings
        if kind in PARTLY:
            return _report(unit, Coverage.PARTLY, why=(PARTLY[kind],)), findings
        if kind not in FULLY:
            return _report(unit, Coverage.PARTLY, why=("only its syntax and the relations that it names",)), findings
        return _report(unit, Coverage.CHECKED, why=judged.why), findings


def _is_known(finding: Finding, findings: list[Finding]) -> bool:
    return any(finding.offset == one.offset and finding.code == one.code for one in findings)


def _of_relations(unit: Unit, sight: Sight) -> tuple[list[Finding], list[str]]:
    """Return what is wrong with the relations of a query, and why nothing is known of some."""
    findings: list[Finding] = []
    why: list[str] = []
    for use in query_relations(unit.statement):
        seen = sight.relation(use.relation)
        findings += absent(use.relation, use.offset, seen, sight)
        if seen.state in {State.NEW, State.PERHAPS, State.UNKNOWN} and seen.why not in why:
            why.append(seen.why)
    return findings, why


def _relations(unit: Unit) -> set[Relation]:
    found = {use.relation for use in query_relations(unit.statement)}
    found |= {one.relation for one in needed(unit.statement)}
    if unit.step is not None and unit.key == "sql":
        found |= {relation for relation in map(relation_in, unit.step.touches) if relation is not None}
    found |= {action.other for action in alter_actions(unit.statement) if action.other is not None}
    return found


def _named_schemas(units: list[Unit]) -> set[str]:
    return {one.name for unit in units for one in changes(unit.statement) if one.name and one.relation is None}


def _report(
    unit: Unit,
    coverage: Coverage,
    *,
    why: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    cost: float | None = None,
    rows: int | None = None,
    locks: tuple[tuple[str, str], ...] = (),
) -> StatementReport:
    text = " ".join(unit.sql.split())
    return StatementReport(
        step=unit.step.id if unit.step is not None else "",
        instance=unit.instance,
        key=unit.key,
        text=text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…",
        command=str(unit.statement.kind),
        coverage=coverage,
        why=why,
        notes=notes,
        cost=cost,
        rows=rows,
        locks=locks,
    )
