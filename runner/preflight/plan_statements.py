"""Checks every statement of a plan on a server, without running it.

It determines the session context of each step, the items of its for_each and its statements, then reads the catalog for
all of them, and then checks one statement after the other, in an order in which the steps can run.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial

from runner.codes import new_problem
from runner.engine.events import Item, Rows
from runner.engine.for_each_items import literal_items, queried_items, refused_rows, values_in_sql
from runner.engine.holds import Measurement, read_measurement
from runner.engine.step_sql import for_list, with_values
from runner.errors import Position, Problem, Severity
from runner.gateway.inspection import Inspector, Settings
from runner.gateway.queries import hold_text, missing_tables
from runner.phrases import few
from runner.plan.graph import topological_order
from runner.plan.groups import constants, steps_of_groups
from runner.plan.model import Check, Hold, Plan, Sql, Step, Value
from runner.plan.selection import is_left_out
from runner.preflight.catalog_state import CatalogView, Changes, survey
from runner.preflight.disk_space import Disks
from runner.preflight.dry_run_result import Coverage, HoldNow, StatementReport
from runner.preflight.planned_queries import BUSY, is_harmless
from runner.preflight.sql_units import (
    MADE_UP,
    MAX_INSTANCES,
    StatementContexts,
    StatementFinding,
    Unit,
    Unreadable,
    base_values,
    step_units,
    units_of,
)
from runner.preflight.statement_changes import Consequences, only_reads
from runner.preflight.statement_check import Examiner, StatementVerdict, refused_setting, report_of
from runner.preflight.uncertain_steps import after_a_failure, is_allowed, may_change, may_remove
from runner.sql.catalog_changes import CREATES, Action, Change, Sort, changes
from runner.sql.definition_changes import alterations
from runner.sql.function_calls import functions_called
from runner.sql.placeholders import TemplateError
from runner.sql.statement_effects import refused_read_only
from runner.structs import Struct, field, replace

#: How many steps a sentence names.
_NAMED = 3
#: The server's error for a text with several statements and no syntax error.
_SEVERAL = "multiple commands"
_NOT_ASKED = "it was not evaluated: it calls a function that may do more than read"


class StatementResults(Struct, kw_only=True):
    """The result for all statements; `units` are for further checks."""

    problems: list[Problem] = field(default_factory=list)
    reports: list[StatementReport] = field(default_factory=list)
    #: The items of each for_each, by step.
    rows: dict[str, Rows] = field(default_factory=dict)
    units: list[tuple[Unit, CatalogView]] = field(default_factory=list)
    #: The holds of the plan now.
    holds: list[HoldNow] = field(default_factory=list)
    #: A precondition of the plan could not be evaluated.
    unevaluated: bool = False


#: The findings for a precondition of the plan, and for a hold.
_UNMET, _HOLD = "JP520", "JP629"
#: The setting, and what changes it for one transaction.
_BY_DEFAULT = "default_transaction_read_only"
_READ_WRITE = re.compile(r"read\s+write|transaction_read_only", re.IGNORECASE)
_WRITABLE = 'write `settings: {default_transaction_read_only: "off"}`, or reset it for the role and the database'


class StatementChecker:
    """Checks the statements of one plan, whose groups are written out.

    Without `explain` the planner runs no functions. `read_only`: by default, the transactions of workers are read-only.
    """

    def __init__(
        self, plan: Plan, inspector: Inspector, disks: Disks, *, explain: bool, read_only: bool = False
    ) -> None:
        self._plan = plan
        self._inspector = inspector
        self._changes = Changes(plan)
        self._contexts = StatementContexts(inspector)
        self._examiner = Examiner(inspector, self._contexts, disks, explain=explain)
        self._result = StatementResults()
        self._read_only = read_only
        #: Instances whose `if` is false now.
        self._skipped: set[str] = set()
        self._values = base_values(plan)
        #: Steps whose SQL does more than read.
        self._writers: set[str] = set()
        #: Steps after which a list may have other items.
        self._removers: set[str] = set()
        #: Steps, and instances of steps, that may be left out when the plan runs.
        self._unlikely: set[str] = set(after_a_failure(plan))
        self._left_out: frozenset[str] = frozenset()
        #: The steps of each group, and for each whether its list could be read.
        self._steps_of_groups = steps_of_groups(plan)
        self._listed: dict[str, bool] = {}

    async def check(self, *, left_out: frozenset[str] = frozenset()) -> StatementResults:
        """Check the plan's requirements, and every statement except those of steps and instances in `left_out`."""
        self._left_out = left_out
        for check in self._plan.requires.preconditions:
            await self._required(check)
        for hold in self._plan.holds:
            await self._hold(hold)
        steps = [step for step in self._in_order() if not self._is_left_out(step)]
        self._note_changes(steps)
        for step in steps:
            for resolved in self._resolved(step):
                await self._enter(resolved)
        lists = {step.id: await self._list_unit(step) for step in steps}
        await self._survey([unit for unit in lists.values() if unit is not None])
        units = {step.id: await self._units(step, lists[step.id]) for step in steps}
        everything = [unit for step in steps for unit in units[step.id]]
        await self._survey(everything)
        self._note_again(everything)
        self._note_functions(everything)
        await self._examiner.own_code.learn(unit.sql for unit in everything)
        for unit in everything:
            await self._look_at(unit)
        place = {step.id: number for number, step in enumerate(steps)}
        self._result.reports.sort(key=lambda report: place.get(report.step, -1))
        return self._result

    def _is_left_out(self, step: Step) -> bool:
        """Return whether no instance of the step is selected, whatever its items are."""
        one_chain = step.group is not None and step.for_each is None
        return step.id in self._left_out or (one_chain and is_left_out(self._left_out, step.id))

    def _in_order(self) -> Iterator[Step]:
        steps = {step.id: step for step in self._plan.all_steps}
        needs = {name: [need.step for need in step.needs] for name, step in steps.items()}
        final = {step.id for step in self._plan.finally_}
        for name in sorted(topological_order(needs), key=lambda name: name in final):
            yield steps[name]

    def _values_of(self, step: Step) -> Mapping[str, Value | None]:
        bound = constants(step)
        return {**self._values, **bound} if bound else self._values

    async def _survey(self, units: list[Unit]) -> None:
        await survey(units, self._contexts, self._inspector)

    def _resolved(self, step: Step, items: tuple[Item, ...] = ()) -> list[Step]:
        """Return the step with the values of its parameters in its role, path and settings: once for each that differs.

        Empty if they have the item of a query in them, which is not known yet. What has no value there is reported with
        the statements.
        """
        found: list[Step] = []
        items = items or literal_items(step)[:MAX_INSTANCES]
        for values in [values_in_sql(step, item) for item in items] or [{}]:
            with contextlib.suppress(TemplateError):
                resolved = with_values(step, {**self._values_of(step), **values})
                if resolved not in found:
                    found.append(resolved)
        return found

    async def _enter(self, step: Step) -> None:
        """Check the role and settings of a step, and report errors, unless a previous step may fix them."""
        for condition in (False, True):
            context = await self._contexts.of_step(step, condition=condition)
            if context.error is not None:
                if not self._changes.makes_role(step.id, step.role):
                    refused = refused_setting(context, 0, () if step.role is None else ("role",))
                    unlikely = step.id in self._unlikely or is_allowed(step, refused)
                    severity = Severity.WARNING if unlikely else None
                    message = f"step `{step.id}`: {refused.message}"
                    self._report(refused.code, message, step.position, step, severity=severity)
                return

    def _report(
        self,
        code: str,
        message: str,
        position: Position,
        step: Step | None = None,
        *,
        hint: str | None = None,
        severity: Severity | None = None,
    ) -> None:
        name = step.id if step is not None else None
        self._result.problems.append(new_problem(code, message, position, hint=hint, step=name, severity=severity))

    # --- the statements and their context -----------------------------------------------------------------------------

    def _note_changes(self, steps: list[Step]) -> None:
        """Record what every step changes, as its text names it; the items of a query are not known yet."""
        for step in steps:
            items = literal_items(step)
            variants = [values_in_sql(step, item) for item in items] if items else [{}]
            for values in variants[:MAX_INSTANCES]:
                try:
                    known = {**self._values_of(step), **values}
                    units = list(units_of(step.sql, known, step=step, instance=step.id, key="sql"))
                except KeyError:
                    continue
                for unit in units:
                    if isinstance(unit, Unit):
                        self._changes.note(step.id, unit.number, changes(unit.statement))
                        self._changes.note_alterations(step.id, unit.number, alterations(unit.statement))
                        if not only_reads(unit.statement):
                            self._writers.add(step.id)
                        if may_remove(unit.statement):
                            self._removers.add(step.id)

    def _note_again(self, units: list[Unit]) -> None:
        """Record all changes again, now that the catalog has resolved the names."""
        schemas = self._changes.created_schemas
        self._changes.clear()
        for unit in units:
            if unit.step is not None and unit.key == "sql":
                found = Consequences(unit, self._contexts.known(unit), schemas)
                self._changes.note(unit.step.id, unit.number, found.changes)
                self._changes.note_alterations(unit.step.id, unit.number, found.alterations)

    def _note_functions(self, units: list[Unit]) -> None:
        """Record that a VOLATILE function that is not built in may have changed anything."""
        anything = (Change(Action.CREATE, Sort.ANYTHING),)
        for unit in units:
            if unit.step is None or unit.key != "sql":
                continue
            unnamed = [change for change in changes(unit.statement) if MADE_UP in str(change.relation)]
            if unnamed:
                kind = CREATES if all(change.action is Action.CREATE for change in unnamed) else ""
                self._changes.note(unit.step.id, unit.number, (replace(anything[0], kind=kind),))
            known = self._contexts.known(unit).functions
            called = (facts for call in functions_called(unit.statement) for facts in known.get(call.name, ()))
            if any(facts.volatility == "v" and facts.extension is None for facts in called):
                self._changes.note(unit.step.id, unit.number, anything)

    async def _list_unit(self, step: Step) -> Unit | None:
        for_each = step.for_each
        if for_each is None or for_each.sql is None:
            return None
        try:
            asked = with_values(for_list(step), self._values)
        except TemplateError:
            return None  # reported with the statements
        for unit in units_of(for_each.sql, self._values, step=asked, instance=step.id, key="for_each.sql"):
            if isinstance(unit, Unit):
                return unit
            await self._unreadable(unit)
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
            message = f"of {len(items)} items only the first {MAX_INSTANCES} are checked"
            self._report_step(step, message, Coverage.PARTLY)
        if step.for_each is not None and step.for_each.sql is not None and items and not self._resolved(step):
            for resolved in self._resolved(step, items[:MAX_INSTANCES]):
                await self._enter(resolved)
        if step.for_each is not None and not items:
            items = self._made_up(step)
        items = tuple(item for item in items if not is_left_out(self._left_out, item.key))
        return await self._readable(step, items)

    async def _readable(self, step: Step, items: tuple[Item, ...]) -> list[Unit]:
        found = []
        for unit in step_units(step, self._values_of(step), items):
            if isinstance(unit, Unit):
                found.append(unit)
            elif not any(MADE_UP in item.key for item in items):
                await self._unreadable(unit)
        return found

    def _made_up(self, step: Step) -> tuple[Item, ...]:
        """Return a made-up item for a list that is empty now and may have items later, None if it cannot."""
        of_group = self._steps_of_groups.get(step.group or "", ())
        before = [
            name for name in self._changes.steps_before(step.id) if name in self._writers and name not in of_group
        ]
        rows = self._result.rows.get(step.group or step.id)
        if not before or rows is None:
            self._report_step(step, "the list of for_each is empty now: there is nothing to do", Coverage.CHECKED)
            return ()
        named = few([f"`{name}`" for name in before], _NAMED)
        why = f"the list of for_each is empty now; step{'s' if len(before) > 1 else ''} {named} may fill it"
        self._report_step(step, f"{why}; the SQL was checked with a made-up item", Coverage.NOT)
        return queried_items(step, rows.columns, [[MADE_UP] * len(rows.columns)])

    async def _unreadable(self, unit: Unreadable) -> None:
        """Report a text that cannot be parsed, unless the server can: its grammar may be newer than the parser's."""
        message = unit.message
        if unit.text is not None:
            probe = await self._inspector.probe((), unit.text, explain=False)
            error = probe.parse.error
            if error is None or error.sqlstate != "42601" or _SEVERAL in error.message:
                why = "the server can parse this syntax, but jobplan cannot: nothing else was checked"
                if unit.step is not None:
                    self._report_step(unit.step, why, Coverage.NOT, unit.key)
                return
            message = error.message
        self._report("JP606", message, unit.position, unit.step)

    def _report_step(self, step: Step, why: str, coverage: Coverage, key: str = "for_each") -> None:
        self._result.reports.append(
            StatementReport(step=step.id, instance=step.id, key=key, text="", command="", coverage=coverage, why=(why,))
        )

    async def _items(self, step: Step, unit: Unit) -> tuple[Item, ...] | None:
        """Return the rows of a for_each's query, or None if it cannot be evaluated now.

        That of a group is evaluated once, for the first step of its chain.
        """
        if step.group is None:
            return await self._rows(step, unit)
        if step.group not in self._listed:
            self._listed[step.group] = await self._rows(step, unit) is not None
        rows = self._result.rows.get(step.group)
        if not self._listed[step.group] or rows is None:
            return None
        if step.group in self._unlikely:
            self._unlikely.add(step.id)
        return queried_items(step, rows.columns, rows.rows)

    async def _rows(self, step: Step, unit: Unit) -> tuple[Item, ...] | None:
        catalog = self._sight(unit)
        if not await self._look_at(unit):
            self._report_step(step, "its items are unknown until its list can be read", Coverage.NOT, "sql")
            return None
        if not await self._is_harmless(unit, catalog):
            why = "its list was not read: it calls a function that may do more than read"
            self._report_step(step, why, Coverage.NOT, "sql")
            return None
        result = await self._inspector.read(catalog.context.settings, unit.sql)
        error = result.error
        wrong = error.message if error is not None else refused_rows(result.columns, len(result.rows))
        if wrong is not None:
            self._report("JP619", f"for_each: {wrong}", unit.position(), step)
            return None
        self._result.rows[step.group or step.id] = Rows(columns=result.columns, rows=result.rows)
        if self._may_be_another(unit, self._removers):
            self._unlikely.update({step.id, step.group or step.id})
        try:
            return queried_items(step, result.columns, result.rows)
        except ValueError as error:
            del self._result.rows[step.group or step.id]
            self._report("JP619", f"for_each: an item {error}", unit.position(), step)
            return None

    # --- one statement ------------------------------------------------------------------------------------------------

    def _sight(self, unit: Unit) -> CatalogView:
        return CatalogView(unit, self._contexts.known(unit), self._changes)

    async def _evaluable(
        self, sql: Sql, instance: str, key: str, wrong: Callable[[str, Position], None], code: str
    ) -> AsyncIterator[tuple[Unit, CatalogView, bool]]:
        """Check a query of the plan itself; yield it, if nothing is wrong, and whether it may be evaluated now.

        `code` is the code of the findings that `wrong` reports.
        """
        for unit in units_of(sql, self._values, step=None, instance=instance, key=key):
            if isinstance(unit, Unreadable):
                wrong(unit.message, unit.position)
                continue
            await self._survey([unit])
            catalog = self._sight(unit)
            verdict = await self._examiner.examine(unit, catalog)
            for one in verdict.findings:
                wrong(one.message, unit.position(one.offset))
            if not verdict.findings:
                harmless = await self._is_harmless(unit, catalog)
                verdict.why += [] if harmless else [_NOT_ASKED]
                yield unit, catalog, harmless
            codes = (code,) if verdict.findings else ()
            self._result.reports.append(replace(report_of(unit, verdict), codes=codes))

    async def _required(self, check: Check) -> None:
        """Check a precondition of the plan, and evaluate it if it only reads; a run evaluates it before it starts."""

        def wrong(why: str, position: Position) -> None:
            self._broken(check, why, position)
            self._result.unevaluated = True

        async for unit, catalog, harmless in self._evaluable(
            check.sql, "requires", "requires.preconditions", wrong, _UNMET
        ):
            answer = await self._answer(unit, catalog) if harmless else True
            if answer is not True:
                self._broken(check, answer or "", check.sql.start)
                self._result.unevaluated |= isinstance(answer, str)

    def _broken(self, check: Check, why: str, position: Position) -> None:
        self._report(_UNMET, f"{check.message} ({why})" if why else check.message, position)

    async def _hold(self, hold: Hold) -> None:
        """Measure a hold once, as a run does before it starts anything."""
        if hold.while_ is None:
            text, path = hold_text(hold)
            settings = [("search_path", self._inspector.search_path if path is None else path)]
            await self._check_tables(hold, settings)
            self._note_hold(hold, read_measurement(hold, await self._inspector.read(settings, text)))
            return
        wrong = partial(self._wrong_hold, hold)
        async for unit, catalog, harmless in self._evaluable(
            hold.while_, f"hold {hold.name}", "holds.while", wrong, _HOLD
        ):
            if harmless:
                result = await self._inspector.read(catalog.context.settings, unit.sql)
                self._note_hold(hold, read_measurement(hold, result))
            else:
                self._result.holds.append(HoldNow(name=hold.name, value=_NOT_ASKED))

    async def _check_tables(self, hold: Hold, settings: Settings) -> None:
        found = await self._inspector.read(settings, missing_tables(hold)) if hold.autovacuum_on else None
        for (table,) in found.rows if found is not None else ():
            message = f"hold `{hold.name}`: there is no table {table}, so autovacuum does not work on it"
            self._report("JP629", message, hold.position, severity=Severity.WARNING)

    def _note_hold(self, hold: Hold, measured: Measurement) -> None:
        if measured.lacks_privilege:
            self._report("JP630", f"hold `{hold.name}`: {measured.value}", hold.position)
        elif measured.error is not None:
            self._wrong_hold(hold, measured.value, hold.position)
        elif measured.on:
            message = f"hold `{hold.name}` is on now: {measured.value}; a run would not start what it concerns"
            self._report("JP631", message, hold.position)
        on = None if measured.error is not None else measured.on
        self._result.holds.append(HoldNow(name=hold.name, on=on, value=measured.value))

    def _wrong_hold(self, hold: Hold, why: str, position: Position) -> None:
        self._report(_HOLD, f"hold `{hold.name}`: {why}", position)

    async def _look_at(self, unit: Unit) -> bool:
        """Check one statement, record the findings, and return whether it could run now as far as is known."""
        catalog = self._sight(unit)
        verdict = await self._examiner.examine(unit, catalog)
        self._judge_writing(unit, verdict)
        good = not verdict.findings and not verdict.blind
        if good and unit.key in {"if", "preconditions"}:
            asked = await self._is_harmless(unit, catalog)
            if unit.key == "if" and (not asked or self._may_be_another(unit, self._writers)):
                self._unlikely.add(unit.instance)
            if asked:
                await self._ask(unit, catalog, verdict)
            else:
                verdict.notes.append(_NOT_ASKED)
        if unit.instance in self._skipped:
            verdict.skip()
        else:
            self._result.units.append((unit, catalog))
        self._result.reports.append(report_of(unit, verdict))
        for one in dict.fromkeys(verdict.findings):
            severity = self._lowered(unit, one) or one.severity
            self._report(one.code, one.message, unit.position(one.offset), unit.step, hint=one.hint, severity=severity)
        return good

    def _judge_writing(self, unit: Unit, verdict: StatementVerdict) -> None:
        """Add a finding if a transaction that is read-only refuses the statement; an error is reported once."""
        settings = unit.step.settings if unit.step is not None else {}
        own = _READ_WRITE.search(unit.rendered.text) or any(name.lower() == _BY_DEFAULT for name in settings)
        refused = refused_read_only(unit.statement) if self._read_only and unit.key == "sql" and not own else None
        if refused is None:
            return
        message = f"{_BY_DEFAULT} is on: a read-only transaction refuses {refused}"
        finding = StatementFinding("JP507", message, unit.statement.start, hint=_WRITABLE, sqlstate="25006")
        if self._lowered(unit, finding) is None and unit.instance not in self._skipped:
            self._read_only = False
        verdict.findings.append(finding)

    async def _ask(self, unit: Unit, catalog: CatalogView, verdict: StatementVerdict) -> None:
        """Evaluate a condition of a step as a run does before it launches the step, and add the result."""
        result = await self._inspector.read(catalog.context.settings, unit.sql)
        answer = result.truth()
        if result.error is not None and result.error.sqlstate in BUSY:
            verdict.notes.append(f"it was not evaluated within the limits of a dry run: {answer}")
        elif isinstance(answer, str):
            severity = Severity.WARNING if self._may_be_another(unit, self._writers) else None
            verdict.findings.append(unit.finding("JP606", f"`{unit.key}`: {answer}", severity=severity))
        elif not answer:
            verdict.notes.append("it is false now")
            if unit.key == "if":
                self._skipped.add(unit.instance)

    def _lowered(self, unit: Unit, finding: StatementFinding) -> Severity | None:
        """Return a warning instead of an error for a statement that may not run, or may fail."""
        left_out = MADE_UP in unit.instance or bool({unit.instance, unit.step_id} & self._unlikely)
        left_out = left_out or unit.key == "on_retry"  # it finds what a failed attempt has left, not what is there now
        return Severity.WARNING if left_out or is_allowed(unit.step, finding) else None

    def _may_be_another(self, unit: Unit, steps: set[str]) -> bool:
        """Return whether one of these steps comes before a condition or list, and may change its result."""
        before = (name for name in self._changes.steps_before(unit.step_id) if name in steps)
        return may_change(unit.statement) and next(before, None) is not None

    async def _is_harmless(self, unit: Unit, catalog: CatalogView) -> bool:
        """Return whether a query may be run: it only reads, with functions of PostgreSQL and of extensions."""
        return is_harmless(unit, catalog) and await self._examiner.own_code.of(unit.sql) is None

    async def _answer(self, unit: Unit, catalog: CatalogView) -> bool | str:
        """Return the result of a condition now, or the reason why it has none. NULL is not true."""
        return (await self._inspector.read(catalog.context.settings, unit.sql)).truth()
