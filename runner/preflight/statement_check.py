"""Checks one statement without running it: how much of it was checked, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from runner.codes import CODES
from runner.errors import Severity
from runner.gateway.inspection import Inspector, Probe
from runner.phrases import cut
from runner.preflight.catalog_state import CatalogView, SeenRelation, State
from runner.preflight.command_checks import NOT_CHECKABLE, check_command, left_open
from runner.preflight.disk_space import Disks, disk_note
from runner.preflight.dry_run_result import Coverage, StatementReport
from runner.preflight.earlier_steps import breakable, check_filled, check_gone
from runner.preflight.object_checks import absent, is_guarded_away, of_wrappers
from runner.preflight.option_checks import check_options, check_versions, result_columns, view_columns, view_there
from runner.preflight.planned_queries import (
    ANALYSED,
    EXPLAINED,
    READ_AS,
    Judged,
    OwnCode,
    check_row_rights,
    fired_event_triggers,
    fired_triggers,
    hidden_rows,
    judge,
    sequences_used,
    uncertain,
)
from runner.preflight.sql_units import StatementContext, StatementContexts, StatementFinding, Unit
from runner.sql.catalog_needs import needed
from runner.sql.command_objects import created_relations, view_aliases
from runner.sql.command_options import leaves_out_data
from runner.sql.placeholders import quote_identifier
from runner.sql.relations import Relation, inner_query, query_relations
from runner.sql.session_settings import ALL, assigned, settings_read
from runner.sql.statements import StatementKind
from runner.sql.unfiltered_writes import cursor_of_row
from runner.sql.version_needs import foreign_options
from runner.structs import Struct, field

_K = StatementKind
#: The finding for a feature of a later version.
_NEWER = "JP624"
_NO_OBJECT = "42704"
#: The most characters of a statement in reports.
_SHOWN = 100
#: Settings that a superuser may change, and a role with the privilege SET on them.
_OF_SUPERUSERS = ("log_", "track_", "debug_", "jit_", "wal_", "ignore_", "allow_")
_RESERVED = frozenset(
    {
        *("deadlock_timeout", "session_replication_role", "lc_messages", "zero_damaged_pages", "temp_file_limit"),
        *("session_preload_libraries", "commit_delay", "compute_query_id", "update_process_title", "max_stack_depth"),
        *("dynamic_library_path", "backtrace_functions", "lo_compat_privileges", "vacuum_truncate", "file_copy_method"),
    }
)
_UNSEEN = frozenset({State.NEW, State.PERHAPS, State.UNKNOWN})


class StatementVerdict(Struct, kw_only=True):
    """The result for a statement; `blind`: nothing could be checked."""

    findings: list[StatementFinding] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    blind: bool = False
    cost: float | None = None
    rows: int | None = None
    locks: tuple[tuple[str, str], ...] = ()

    @property
    def coverage(self) -> Coverage:
        """How much was checked."""
        if self.blind:
            return Coverage.NOT
        return Coverage.PARTLY if self.why or self.findings else Coverage.CHECKED

    def add(self, found: Iterable[StatementFinding | str]) -> None:
        """Add findings, and sentences about what is unknown."""
        for one in found:
            if isinstance(one, str):
                self.why.append(one)
            else:
                self.findings.append(one)

    def skip(self) -> None:
        """Turn findings into notes: the `if` of the step is false now, so the step would be skipped."""
        self.notes += [f"{one.code}: {one.message}" for one in self.findings]
        if self.findings:
            self.why.append("its `if` is false now, and the step would be skipped")
        self.findings = []

    def keep_certain(self, unit: Unit, catalog: CatalogView) -> None:
        """Remove errors that previous steps may make obsolete, and add why the result is unknown."""
        kept = []
        for one in self.findings:
            severity = one.severity or CODES[one.code].severity
            other = uncertain(unit, catalog, one, one.code) if severity is Severity.ERROR else None
            if other is None:
                kept.append(one)
                continue
            kept += other.findings
            self.why += other.why
            self.blind = True
        self.findings = kept

    def take(self, judged: Judged, probe: Probe | None = None) -> None:
        """Add the findings from the server's answers."""
        self.findings += judged.findings
        self.why += judged.why
        self.blind = self.blind or judged.blind
        self.cost, self.rows = judged.cost, judged.rows
        if probe is not None:
            self.locks = tuple((str(Relation(row[0], row[1] or "")), row[2] or "") for row in probe.locks)


class Examiner:
    """Checks one statement after the other. Without `explain` the planner runs no functions."""

    def __init__(self, inspector: Inspector, contexts: StatementContexts, disks: Disks, *, explain: bool) -> None:
        self._inspector = inspector
        self._contexts = contexts
        self._disks = disks
        self._explain = explain
        #: Functions that planning a statement would execute.
        self.own_code = OwnCode(inspector)

    async def examine(self, unit: Unit, catalog: CatalogView) -> StatementVerdict:
        """Return the result for a statement."""
        if catalog.context.error is not None:
            return StatementVerdict(why=[f"the step's settings are refused: {catalog.context.error}"], blind=True)
        kind = unit.statement.kind
        if kind in NOT_CHECKABLE and kind is not _K.CALL:
            verdict = StatementVerdict(why=[NOT_CHECKABLE[kind]], blind=True)
            verdict.findings += judge(unit, await self._probe(unit, catalog, explain=False), catalog).findings
        elif kind in ANALYSED:
            verdict = await self._planned(unit, catalog)
        elif kind in {_K.SET, _K.RESET}:
            verdict = await self._setting(unit, catalog)
        else:
            verdict = await self._command(unit, catalog)
        if not (verdict.blind or verdict.findings) and unit.key == "sql":
            verdict.why += breakable(unit, catalog)
        if not verdict.blind:
            verdict.add(hidden_rows(unit, catalog))
            verdict.why += (*fired_triggers(unit, catalog), *fired_event_triggers(unit, catalog))
            verdict.why += sequences_used(unit, catalog)
            note = disk_note(unit, catalog, self._disks)
            verdict.notes += [note] if note is not None else []
        return verdict

    async def _probe(self, unit: Unit, catalog: CatalogView, *, explain: bool) -> Probe:
        return await self._inspector.probe(catalog.context.settings, unit.sql, explain=explain)

    async def _planned(self, unit: Unit, catalog: CatalogView) -> StatementVerdict:
        verdict = _of_relations(unit, catalog)
        verdict.findings += (*check_versions(unit, catalog), *check_options(unit, catalog))
        if created_relations(unit.statement):
            known = {(one.offset, one.code) for one in verdict.findings}
            verdict.findings += (one for one in check_command(unit, catalog) if (one.offset, one.code) not in known)
        verdict.keep_certain(unit, catalog)
        if not verdict.findings:
            verdict.findings += (*check_gone(unit, catalog), *check_filled(unit, catalog))
            verdict.keep_certain(unit, catalog)
        if verdict.why or verdict.findings:
            verdict.blind = bool(verdict.why)
            return verdict
        planned = not (is_guarded_away(unit, catalog) or leaves_out_data(unit.statement))
        explained = planned and unit.statement.kind in EXPLAINED
        unsafe = await self.own_code.of(unit.sql) if explained else None
        plannable = explained and unsafe is None
        explain = self._explain and plannable
        probe = await self._probe(unit, catalog, explain=explain)
        verdict.take(judge(unit, probe, catalog), probe)
        refused = {one.code for one in verdict.findings} == {"JP610"}
        if refused or not (explain or not planned or verdict.findings or verdict.blind):
            rights = StatementVerdict()
            rights.add(check_row_rights(unit, catalog))
            # The server names only the first missing privilege, and no GRANT.
            verdict.findings = rights.findings if refused and rights.findings else verdict.findings + rights.findings
            verdict.why += rights.why
            verdict.keep_certain(unit, catalog)
        analysed = not (is_guarded_away(unit, catalog) or verdict.findings or verdict.blind)
        inner = inner_query(unit.statement, unit.sql) if analysed else None
        if inner is not None:
            verdict.findings += _wrong_columns(
                unit, await self._inspector.probe(catalog.context.settings, inner[1], explain=False)
            )
            verdict.keep_certain(unit, catalog)
        verdict.why += await self._left_open(unit, catalog)
        if unit.statement.kind is _K.CALL:
            verdict.why.append(NOT_CHECKABLE[_K.CALL])
        elif unsafe is not None:
            verdict.why.append(f"it was not explained: planning could execute {unsafe}, which a dry run never does")
        elif plannable and not self._explain:
            verdict.why.append("it was not explained (--no-explain): costs and privileges on functions are unknown")
        return verdict

    async def _left_open(self, unit: Unit, catalog: CatalogView) -> list[str]:
        """Return what only running a query shows: settings, cursors, and options of modules."""
        statement = unit.statement
        found = [await self._unknown_setting(name, catalog) for name in dict.fromkeys(settings_read(statement))]
        if statement.kind is _K.SELECT and assigned(statement):
            after = await self._contexts.after(unit)
            found.append(f"set_config() would be refused: {after.error}" if after.error is not None else None)
        if statement.kind is _K.SELECT_INTO:
            found.append("only running it shows whether the names of the columns of the new table are unique")
        foreign = foreign_options(statement)
        if foreign:
            found.append(f"PostgreSQL has no option {', '.join(foreign)}: a module of the server may add it")
        cursor = cursor_of_row(statement)
        if cursor is not None:
            found.append(f"only running it shows whether the cursor {cursor} is open, and on this table")
        return [one for one in found if one is not None]

    async def _setting(self, unit: Unit, catalog: CatalogView) -> StatementVerdict:
        """Have the server try the value, in a transaction that is rolled back."""
        verdict = StatementVerdict(findings=list(check_versions(unit, catalog)))
        verdict.take(judge(unit, await self._probe(unit, catalog, explain=False), catalog))
        names = [name.lower() for name, _ in assigned(unit.statement)]
        reserved = [name for name in names if name.startswith(_OF_SUPERUSERS) or name in _RESERVED]
        if reserved and not catalog.context.superuser:
            verdict.why.append(f"only running it shows whether the role may set {reserved[0]}, as superusers may")
        for name, value in assigned(unit.statement):
            unknown = value is None and name != ALL and "." not in name and await self._unknown_setting(name, catalog)
            if unknown:
                verdict.findings.append(unit.finding("JP523", unknown))
        after = await self._contexts.after(unit)
        if after.error is not None:
            verdict.findings.append(refused_setting(after, unit.statement.start, dict(assigned(unit.statement))))
            verdict.keep_certain(unit, catalog)
        return verdict

    async def _unknown_setting(self, name: str, catalog: CatalogView) -> str | None:
        """Return the server's error if it has no such setting: it parses SHOW of those that it has alone."""
        settings = catalog.context.settings
        shown = await self._inspector.probe(settings, f"SHOW {quote_identifier(name)}", explain=False)
        error = shown.parse.error
        return error.message if error is not None and error.sqlstate == _NO_OBJECT else None

    async def _command(self, unit: Unit, catalog: CatalogView) -> StatementVerdict:
        verdict = StatementVerdict()
        verdict.take(judge(unit, await self._probe(unit, catalog, explain=False), catalog))
        found = list(check_command(unit, catalog))
        if any(one.code == _NEWER for one in found):  # then the server does not read the text either
            verdict.findings = [one for one in verdict.findings if not (one.hint or "").startswith(READ_AS)]
        verdict.findings += found
        verdict.keep_certain(unit, catalog)
        unseen = [catalog.relation(one.relation) for one in needed(unit.statement)]
        if any(seen.state in _UNSEEN for seen in unseen):
            verdict.why, verdict.blind = _why_unseen(unseen), True
            return verdict
        if not verdict.findings:
            await self._inner(unit, catalog, verdict)
        verdict.why += (*left_open(unit.statement), *of_wrappers(unit, catalog))
        return verdict

    async def _inner(self, unit: Unit, catalog: CatalogView, verdict: StatementVerdict) -> None:
        """Check the query of a view or of COPY separately; a view's owner needs the privileges only when it is read."""
        inner = inner_query(unit.statement, unit.sql)
        if inner is None:
            return
        start, sql = inner
        explain = self._explain and unit.statement.kind is not _K.CREATE_VIEW
        explain = explain and await self.own_code.of(sql) is None
        probe = await self._inspector.probe(catalog.context.settings, sql, explain=explain)
        judged = judge(unit, probe, catalog, start=start)
        verdict.findings += judged.findings
        verdict.findings += _wrong_columns(unit, probe)
        replaced = view_there(unit, catalog)
        if replaced is not None and replaced.kind == "v" and probe.parse.error is None:
            verdict.why.append("only replacing it shows whether its columns keep their lengths and collations")
            names = tuple(column.name for column in probe.parse.columns)
            given = view_aliases(unit.statement)
            names = (*given, *names[len(given) :])
            wrong = view_columns(replaced, names, tuple(column.type for column in probe.parse.columns))
            if wrong is not None:
                verdict.findings.append(unit.finding("JP606", wrong))
                verdict.keep_certain(unit, catalog)
        verdict.why += judged.why
        verdict.blind = judged.blind
        verdict.cost, verdict.rows = judged.cost, judged.rows


def _wrong_columns(unit: Unit, probe: Probe) -> Iterator[StatementFinding]:
    """Yield errors in the columns of a new relation from a query."""
    if not created_relations(unit.statement) or probe.parse.error is not None:
        return
    wrong = result_columns(tuple(column.name for column in probe.parse.columns), view_aliases(unit.statement))
    if wrong is not None:
        yield unit.finding("JP606", wrong)


def refused_setting(context: StatementContext, offset: int, names: Iterable[str]) -> StatementFinding:
    """Return the finding for a role or a setting that the server refuses."""
    message = context.error or ""
    code = "JP522" if "role" in set(names) and "role" in message else "JP523"
    return StatementFinding(code, message, offset)


def _of_relations(unit: Unit, catalog: CatalogView) -> StatementVerdict:
    """Return findings about the relations of a query, and the reasons why some are unknown."""
    verdict = StatementVerdict()
    found = [(use, catalog.relation(use.relation)) for use in query_relations(unit.statement)]
    for use, seen in found:
        verdict.findings += absent(use.relation, use.offset, seen, catalog)
    verdict.why += _why_unseen([seen for _, seen in found])
    return verdict


def _why_unseen(found: Sequence[SeenRelation]) -> list[str]:
    """Return why some relations are unknown, with one sentence for all with the same reason."""
    names: dict[str, dict[str, None]] = {}
    for seen in found:
        if seen.state in _UNSEEN:
            names.setdefault(seen.why_not, {})[str(seen.relation)] = None
    return [f"{', '.join(each)}: {why}" for why, each in names.items()]


#: The reason for relations that other steps create, in `_why_unseen`.
_CREATED = re.compile(r".+: created by step `[^`]*`")


def _is_of_plan(verdict: StatementVerdict) -> bool:
    """Return whether the statement is not checked only because it uses tables that the plan creates."""
    created = bool(verdict.why) and all(map(_CREATED.fullmatch, verdict.why))
    return created and verdict.blind and not (verdict.notes or verdict.findings)


def report_of(unit: Unit, verdict: StatementVerdict) -> StatementReport:
    """Return the statement for reports."""
    return StatementReport(
        step=unit.step_id,
        instance=unit.instance,
        key=unit.key,
        text=cut(" ".join(unit.sql.split()), _SHOWN),
        command=str(unit.statement.kind),
        coverage=verdict.coverage,
        why=tuple(dict.fromkeys(verdict.why)),
        notes=tuple(dict.fromkeys(verdict.notes)),
        codes=tuple(dict.fromkeys(one.code for one in verdict.findings)),
        cost=verdict.cost,
        rows=verdict.rows,
        locks=verdict.locks,
        of_plan=_is_of_plan(verdict),
    )
