"""One trial: a random plan, run and resumed under faults until it is done, and then judged."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from tests.chaos.attack import Attack, Ended, Lane
from tests.chaos.circumstances import Circumstances, Companion, both, cut
from tests.chaos.evidence import Effects, Event, Evidence, Phase, item_key, item_keys, read_effects
from tests.chaos.faults import SERVER_WIDE, Fault, Planned, draw, draw_between, strike
from tests.chaos.plans import in_window, random_plan, reordered, windowed
from tests.chaos.sampler import WORKERS, key_of, samples_of, taken_of
from tests.chaos.witness import CODES, Claims, Violation, all_claims, judge, read_claims
from tests.chaos.work import Work
from tests.tunnel import Tunnel

#: Seconds for which the last workers of a run may live on; the longest detach step takes little more than one.
_LAST_WORKERS = 40.0
#: Commands of one trial that are struck, and all commands of it, at most.
_STRUCK = 3
_COMMANDS = 20
_ASKED = re.compile(r"--mark '?([a-z][^=']*)=")
#: Codes after which a run is over and there is nothing to resume: all is well, or run_timeout has ended it.
_OVER = (0, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a trial: how its commands, its attempts and its steps ended, and what was not as promised."""

    number: int
    server_wide: bool
    ledger: bool
    seconds: float
    faults: Sequence[str]
    circumstances: Sequence[str]
    codes: Sequence[int | None]
    outcomes: Sequence[str]
    states: Sequence[str]
    marks: int
    violations: Sequence[str]


class Trial:
    """See the module's docstring. `number` and `seed` together determine everything but the timing."""

    def __init__(self, number: int, seed: int, lane: Lane, folder: Path) -> None:
        self._number = number
        self._random = Random(f"{seed}/{number}")
        self._lane = lane
        self._folder = folder
        self._circumstances = Circumstances.drawn(self._random, server_wide=lane.server_wide)
        self._plan = random_plan(self._random, f"c{number}", reserve=self._circumstances.reserve)
        #: The window of the plan, and what is drawn for it; apart from all else, so that other trials stay as they are.
        self._windows = Random(f"{seed}/{number}/window")
        if self._windows.random() < 0.25:
            self._plan = windowed(self._plan, self._windows)
        self._text = self._plan.text
        self._ledger = self._random.random() < 0.5
        #: The id of a run that is begun and resumed by the same command line; else empty. Drawn apart from all else.
        self._chosen = f"chaos-{seed}-{number}"[:36] if Random(f"{seed}/{number}/again").random() < 0.4 else ""
        self._phases: list[Phase] = []
        #: What was asked last, and the answers; and how many questions there were.
        self._marks: dict[str, str] = {}
        self._asked = 0
        #: Where the journals are: those of one machine after the other.
        self._homes = [lane.disk.folder / f"trial-{number}-0"]
        self._samples_from = lane.samples.stat().st_size
        #: Copies of journals as they were before a part of them was cut off and a runner continued with the rest.
        self._before_cut: list[list[Event]] = []
        self._commands = 0
        self._clock: Path | None = None
        self._run_id = ""
        self._tunnel: Tunnel | None = None
        self._conninfo = lane.conninfo

    def __call__(self) -> Verdict:
        """Carry the trial out, and judge it. Its folder is kept if there is a violation."""
        with contextlib.ExitStack() as stack:
            if self._circumstances.tunnel:
                self._tunnel = stack.enter_context(contextlib.closing(Tunnel(self._lane.conninfo)))
                self._conninfo = self._tunnel.dsn
            return self._carried_out()

    def _carried_out(self) -> Verdict:
        begun = time.monotonic()
        shutil.rmtree(self._folder, ignore_errors=True)  # of a trial that was interrupted
        self._folder.mkdir(parents=True)
        (self._folder / "plan.yaml").write_text(self._plan.text, encoding="utf-8")
        with self._lane.reach() as connection:
            connection.execute(self._plan.setup.encode())
        if self._circumstances.second:
            with psycopg.connect(self._lane.second, autocommit=True) as connection:
                connection.execute(self._plan.setup.encode())
        done = self._until_done()
        gone = self._until_no_worker()
        evidence = self._evidence()
        violations = judge(evidence)
        if not done:
            violations.append(Violation(rule="done", message=f"not done after {self._commands} commands"))
        if not gone:
            violations.append(Violation(rule="gone", message=f"workers live on: {', '.join(self._alive())}"))
        claims = all_claims(evidence)
        verdict = Verdict(
            number=self._number,
            server_wide=self._lane.server_wide,
            ledger=self._ledger,
            seconds=round(time.monotonic() - begun, 2),
            faults=[fault for phase in self._phases for fault in phase.faults],
            circumstances=self._circumstances.names,
            codes=[phase.code for phase in self._phases],
            outcomes=[outcome for claim in claims.values() for outcome in claim.outcomes.values()],
            states=[claim.state or "none" for claim in claims.values()],
            marks=self._asked,
            violations=[str(violation) for violation in violations],
        )
        self._tidy(verdict, evidence)
        return verdict

    # --- commands ---------------------------------------------------------------------------------------------------

    def _until_done(self) -> bool:
        """Run the plan, and resume it until it is done; False if that takes too many commands."""
        companion = Companion(self._lane, self._folder, self._circumstances.reserve, self._random)
        ended = self._first(companion)
        while self._commands < _COMMANDS:
            if ended.code not in CODES or ended.code in _OVER or (ended.code == 1 and not ended.faults):
                return True
            if "leads to another server" not in ended.err:  # that resumption has not read the answers
                self._answer(sorted(set(_ASKED.findall(ended.err))))
            time.sleep(self._random.choice((0.0, self._random.random())))
            if self._circumstances.cut and self._random.random() < 0.6:
                resumed = self._resume_what_is_left()
                if resumed is not None and (resumed.code not in CODES or resumed.code in (*_OVER, 1)):
                    return True
            if self._circumstances.reorder and self._random.random() < 0.5:
                self._text = reordered(self._text)
                (self._folder / "plan.yaml").write_text(self._text, encoding="utf-8")
            ended = self._command(self._faults())
        return False

    def _first(self, companion: Companion) -> Ended:
        """Run the plan, beside other runs with the same reserve if that is to be."""
        with companion.beside():
            ended = self._command(self._faults())
        self._phases[:0] = [Phase(command=name, code=each.code, stderr=each.err) for name, each in companion.ended]
        return ended

    def _resume_what_is_left(self) -> Ended | None:
        """Cut the end off the journal and resume; None if that was refused: then the journal is put back as it was."""
        files = self._files()[-1:]
        if not files or not self._known_run():
            return None
        whole = files[0].read_bytes()
        head = files[0].with_name("events.head")
        confirmed = head.read_bytes() if head.exists() else None
        before = list(_events(files))
        left = cut(whole, self._random)
        files[0].write_bytes(left)
        ended = self._command([], cut_off=True)
        if len(files[0].read_bytes()) <= len(left):
            files[0].write_bytes(whole)
            if confirmed is not None:
                head.write_bytes(confirmed)
            return None
        self._before_cut.append(before)
        self._answer(sorted(set(_ASKED.findall(ended.err))))
        return ended

    def _faults(self) -> list[Planned]:
        number = self._commands
        if number >= _STRUCK or (number and self._random.random() < 0.4):
            return []
        drawn = draw(self._random, server_wide=self._lane.server_wide, possible=self._possible)
        if self._circumstances.second:  # the run has to begin on its own cluster
            drawn = [replace(each, events=max(1, each.events)) if each.fault in SERVER_WIDE else each for each in drawn]
        if any(planned.fault is Fault.CLOCK_JUMP for planned in drawn) and self._clock is None:
            self._clock = self._folder / "clock"
            self._clock.write_text("+0\n", encoding="utf-8")
        return drawn

    @property
    def _possible(self) -> frozenset[Fault]:
        """The faults that can be brought about in this trial."""
        possible = set(self._lane.possible)
        if self._tunnel is None:
            possible.discard(Fault.STALL)
        if self._circumstances.reserve:
            possible.discard(Fault.NO_WORKERS)  # who takes every worker keeps no reserve
        return frozenset(possible)

    def _command(self, faults: Sequence[Planned], *, cut_off: bool = False) -> Ended:
        """Run or resume, and note what came of it and of what was done beside it and after it.

        Each command may have a clock of its own: a run is resumed on another host, and clocks differ.
        """
        if self._clock is not None:
            self._clock.write_text(f"{self._random.choice((-7200, -120, 0, 120, 7200)):+d}s\n", encoding="utf-8")
        if self._plan.window:
            self._set_window()
        name = f"{len(self._phases)}-{'resume' if self._known_run() else 'run'}"
        self._commands += 1
        arguments = self._arguments(name, cut_off=cut_off)
        attack = Attack(
            self._lane,
            self._folder,
            name,
            run_id=self._known_run,
            others=self._others,
            clock=self._clock,
            tunnel=self._tunnel,
        )
        ended = attack.carry_out(arguments, faults, self._count_events, self._random)
        alive = self._alive()
        hidden = self._hidden() if alive and self._random.random() < 0.5 else []
        between = draw_between(self._random, server_wide=self._lane.server_wide, possible=self._possible)
        struck = [*ended.faults, *(["journal_cut"] if cut_off else [])]
        if ended.code not in _OVER and between is not None and strike(between, attack, self._random):
            struck.append(f"{between.value}")
        for beside, other in attack.beside_it:
            if "-takeover-" in beside and list(self._elsewhere.glob("*/events.jsonl")):
                self._homes.append(self._elsewhere)
            self._phases.append(Phase(command=beside, code=other.code, stderr=other.err))
        self._phases.append(
            Phase(
                command=name,
                code=ended.code,
                stderr=ended.err,
                faults=tuple(struck),
                alive=tuple(alive),
                hidden=tuple(hidden),
            )
        )
        return ended

    def _set_window(self) -> None:
        """Write a window into the plan: one that closes soon, or for the last commands one that stays open."""
        ((now,),) = self._lane.ask(b"SELECT clock_timestamp() AT TIME ZONE 'UTC'")
        self._text = in_window(self._text, self._windows, now, last=self._commands >= _STRUCK)
        (self._folder / "plan.yaml").write_text(self._text, encoding="utf-8")

    def _arguments(self, name: str, *, cut_off: bool) -> list[str | Path]:
        report = ["--report", f"jsonl={self._folder / name}.jsonl"]
        again = ["--run-id", self._chosen, "--or-resume"] if self._chosen else []
        if not self._known_run():
            return ["run", self._folder / "plan.yaml", *self._where(), *again, *report]
        if again and not self._marks and not cut_off:
            if self._ledger and not self._circumstances.second and self._random.random() < 0.25:
                self._homes.append(self._elsewhere)  # the command itself restores the journal there
            return ["run", self._folder / "plan.yaml", *self._where(), *again, *self._changed(), *report]
        if self._ledger and self._random.random() < 0.25 and self._move():
            self._marks = {}  # they answer what the record asked that has stayed behind; this one may know it
        marks = [part for key, state in self._marks.items() for part in ("--mark", f"{key}={state}")]
        orphans = self._random.choice((["--orphans", "wait"], ["--orphans", "cancel"], []))
        return ["resume", self._known_run(), *self._where(), *self._changed(), *orphans, *marks, *report]

    def _changed(self) -> list[str | Path]:
        return [] if self._text == self._plan.text and not self._circumstances.reorder else ["--allow-changed"]

    @property
    def _elsewhere(self) -> Path:
        """Where the journals of the next machine go."""
        return self._lane.disk.folder / f"trial-{self._number}-{len(self._homes)}"

    def _move(self) -> bool:
        """Continue on another machine, which has nothing of the run but what is in the ledger; false if it cannot."""
        home = self._elsewhere
        name = f"{len(self._phases)}-restore"
        attack = Attack(self._lane, self._folder, name, run_id=self._known_run, others=self._others)
        arguments: list[str | Path] = ["ledger", "restore", self._known_run()]
        arguments += ["--dsn", self._lane.conninfo, "--journal", home]
        ended = attack.carry_out(arguments, [], int, self._random)
        self._phases.append(Phase(command=name, code=ended.code, stderr=ended.err))
        if ended.code == 0:
            self._homes.append(home)
        return ended.code == 0

    def _where(self) -> list[str | Path]:
        ledger = [] if self._ledger else ["--no-ledger"]
        return ["--dsn", self._connection(), "--journal", self._homes[-1], *ledger]

    def _connection(self) -> str:
        """Return the connection string of the next command; a resumption may come upon the second cluster first."""
        if not self._circumstances.second:
            return self._conninfo
        balanced = bool(self._known_run()) and self._random.random() < 0.5
        return both(self._lane.conninfo, self._lane.second, balanced=balanced)

    def _others(self, command: str) -> list[str | Path]:
        if command == "cancel":
            return ["cancel", self._known_run(), "--dsn", self._lane.conninfo]
        if command == "takeover" and self._ledger:
            where: list[str | Path] = ["--dsn", self._connection(), "--journal", self._elsewhere, "--from-ledger"]
        else:
            where = self._where()
        return ["resume", self._known_run(), *where, *self._changed()]

    def _answer(self, asked: Sequence[str]) -> None:
        """Answer as a person would who looks: what is there was done; what an index left behind goes.

        They know from the record how often it was done before: `finally` runs once more with each resumption.
        """
        self._marks = {}
        if not asked:
            return
        self._asked += len(asked)
        self._until_no_worker()
        claims = read_claims(list(_events(self._files()[-1:])))
        with self._lane.reach() as connection:
            keys = item_keys(list(_events(self._files())))
            effects = read_effects(connection, self._plan, self._run_id, keys)
            for key in asked:
                step = self._plan.step_of(key)
                first = item_key(key)
                there = effects.is_there(step, first, known=claims.get(first, Claims()).count("succeeded"))
                self._marks[key] = "succeeded" if there else "failed"
                if step.work is Work.INDEX and not there:
                    connection.execute(f"DROP INDEX IF EXISTS {self._plan.schema}.i_{step.id}".encode())

    # --- what is known ----------------------------------------------------------------------------------------------

    def _known_run(self) -> str:
        """Return the run's id, from the first event that it has recorded; empty before."""
        if not self._run_id:
            for event in _events(self._files()):
                self._run_id = str(event["run"])
                break
        return self._run_id

    def _files(self) -> list[Path]:
        """Return the journals of the run, those of one machine after the other."""
        return [path for home in self._homes for path in sorted(home.glob("*/events.jsonl")) if _has_event(path)]

    def _count_events(self) -> int:
        count = 0
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):  # of a run that was refused, and is being begun anew
                count += path.read_bytes().count(b"\n")
        return count

    def _alive(self) -> list[str]:
        """Return the keys of the run's workers that live."""
        prefix = f"jobplan:{self._known_run()}:"
        names = [str(name) for (name,) in self._lane.ask(WORKERS.encode())]
        return [key_of(name, self._known_run(), self._plan.keys) for name in names if name.startswith(prefix)]

    def _hidden(self) -> list[str]:
        """Return the workers that live before and after `jobplan status` has looked, and that it does not name."""
        before = self._alive()
        attack = Attack(
            self._lane, self._folder, f"{len(self._phases)}-status", run_id=self._known_run, others=self._others
        )
        arguments = ["status", "--dsn", self._lane.conninfo, "--format", "json"]
        ended = attack.carry_out(arguments, [], int, self._random)
        after = self._alive()
        runs = json.loads(ended.out or "{}").get("runs", [])
        named = {worker["step"] for run in runs if run["run"] == self._run_id for worker in run["workers"]}
        return [key for key in before if key in after and key not in named]

    def _until_no_worker(self) -> bool:
        """Wait until none of the run's workers lives; False if one does for too long."""
        end = time.monotonic() + _LAST_WORKERS
        while self._alive():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def _evidence(self) -> Evidence:
        with self._lane.samples.open(encoding="utf-8") as file:
            file.seek(self._samples_from)
            lines = file.readlines()
        run_id = self._known_run()
        effects = astray = Effects()
        most = None
        if run_id:
            keys = item_keys([event for events in (*self._before_cut, _events(self._files())) for event in events])
            with self._lane.reach() as connection:
                effects = read_effects(connection, self._plan, run_id, keys)
                if self._circumstances.reserve:
                    most = self._circumstances.most(connection)
            if self._circumstances.second:
                with psycopg.connect(self._lane.second, autocommit=True) as connection:
                    astray = read_effects(connection, self._plan, run_id, keys)
        return Evidence(
            plan=self._plan,
            events=list(_events(self._files()[-1:])),
            elsewhere=[*self._before_cut, *(list(_events([path])) for path in self._files()[:-1])],
            reported=list(_events(sorted(self._folder.glob("*.jsonl")))),
            phases=tuple(self._phases),
            effects=effects,
            samples=samples_of(lines, run_id, self._plan.keys) if run_id else (),
            ledger=self._ledger,
            astray=astray,
            taken=taken_of(lines),
            most=most,
        )

    def _tidy(self, verdict: Verdict, evidence: Evidence) -> None:
        """Remove the trial's traces, or put the evidence of a violation together."""
        with self._lane.reach() as connection:
            connection.execute(f"DROP SCHEMA {self._plan.schema} CASCADE".encode())
        if self._circumstances.second:
            with psycopg.connect(self._lane.second, autocommit=True) as connection:
                connection.execute(f"DROP SCHEMA {self._plan.schema} CASCADE".encode())
        if not verdict.violations:
            shutil.rmtree(self._folder)
        else:
            (self._folder / "plan.yaml").write_text(self._plan.text, encoding="utf-8")
            found: dict[str, Any] = {"verdict": asdict(verdict), "run": self._run_id, "marks": self._marks}
            found |= {"phases": [asdict(phase) for phase in evidence.phases]}
            found |= {"rows": [asdict(row) for row in evidence.effects.rows], "done": sorted(evidence.effects.done)}
            found |= {"samples": [asdict(sample) for sample in evidence.samples]}
            (self._folder / "evidence.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            for home in self._homes:
                with contextlib.suppress(OSError):
                    shutil.copytree(home, self._folder / home.name)
            shutil.copy(self._lane.server.log_file, self._folder / "server.log")
        self._lane.disk.clear()


def _has_event(path: Path) -> bool:
    """Say whether a run has begun: a command that is killed before its first event leaves a journal without any."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        return file.readline().endswith(b"\n")
    return False


def _events(files: Sequence[Path]) -> Iterator[Event]:
    """Read what a run has recorded; a line that is being written, or was torn, is left out."""
    for path in files:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            if line.endswith("}\n"):
                yield json.loads(line)
