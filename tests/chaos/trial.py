"""One trial: a random plan, run and resumed under faults until it is done, and then judged."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.attack import Attack, Ended, Lane
from tests.chaos.evidence import Effects, Event, Evidence, Phase, read_effects
from tests.chaos.faults import Fault, Planned, draw
from tests.chaos.plans import random_plan
from tests.chaos.sampler import samples_of
from tests.chaos.witness import CODES, Violation, judge, read_claims
from tests.chaos.work import COUNTED, Work, last_part

#: Seconds for which the last workers of a run may live on; the longest detach step takes little more than one.
_LAST_WORKERS = 40.0
#: Commands of one trial that are struck, and all commands of it, at most.
_STRUCK = 3
_COMMANDS = 10
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
        self._plan = random_plan(self._random, f"c{number}")
        self._ledger = self._random.random() < 0.5
        self._phases: list[Phase] = []
        self._marks: dict[str, str] = {}
        self._journal = lane.disk.folder / f"trial-{number}"
        self._samples_from = lane.samples.stat().st_size
        self._clock: Path | None = None
        self._run_id = ""

    def __call__(self) -> Verdict:
        """Carry the trial out, and judge it. Its folder is kept if there is a violation."""
        begun = time.monotonic()
        self._folder.mkdir(parents=True)
        (self._folder / "plan.yaml").write_text(self._plan.text, encoding="utf-8")
        with self._lane.reach() as connection:
            connection.execute(self._plan.setup.encode())
        done = self._until_done()
        gone = self._until_no_worker()
        evidence = self._evidence()
        violations = judge(evidence)
        if not done:
            violations.append(Violation(rule="done", message=f"not done after {len(self._phases)} commands"))
        if not gone:
            violations.append(Violation(rule="gone", message=f"workers live on: {', '.join(self._alive())}"))
        claims = read_claims(evidence.events)
        verdict = Verdict(
            number=self._number,
            server_wide=self._lane.server_wide,
            ledger=self._ledger,
            seconds=round(time.monotonic() - begun, 2),
            faults=[fault for phase in self._phases for fault in phase.faults],
            codes=[phase.code for phase in self._phases],
            outcomes=[outcome for claim in claims.values() for outcome in claim.outcomes.values()],
            states=[claim.state or "none" for claim in claims.values()],
            marks=len(self._marks),
            violations=[str(violation) for violation in violations],
        )
        self._tidy(verdict, evidence)
        return verdict

    # --- commands ---------------------------------------------------------------------------------------------------

    def _until_done(self) -> bool:
        """Run the plan, and resume it until it is done; False if that takes too many commands."""
        while len(self._phases) < _COMMANDS:
            faults = self._faults()
            ended = self._command(faults)
            if ended.code not in CODES or ended.code in _OVER or (ended.code == 1 and not ended.faults):
                return True
            asked = sorted(set(_ASKED.findall(ended.err)))
            if asked:
                self._answer(asked)
            if not _CAN_RESUME and self._known_run():
                return True
            time.sleep(self._random.choice((0.0, self._random.random())))
        return False

    def _faults(self) -> list[Planned]:
        number = len(self._phases)
        if number >= _STRUCK or (number and self._random.random() < 0.4):
            return []
        possible = set(Fault)
        if self._lane.faketime is None:
            possible.discard(Fault.CLOCK_JUMP)
        drawn = draw(self._random, server_wide=self._lane.server_wide, possible=frozenset(possible))
        if any(planned.fault is Fault.CLOCK_JUMP for planned in drawn) and self._clock is None:
            self._clock = self._folder / "clock"
            self._clock.write_text("+0\n", encoding="utf-8")
        return drawn

    def _command(self, faults: Sequence[Planned]) -> Ended:
        number = len(self._phases)
        name = f"{number}-{'resume' if self._known_run() else 'run'}"
        attack = Attack(self._lane, self._folder, name, run_id=self._known_run, clock=self._clock)
        ended = attack.carry_out(self._arguments(name), faults, self._count_events, self._random)
        self._phases.append(
            Phase(
                command=name,
                code=ended.code,
                stderr=ended.err,
                faults=ended.faults,
                alive=tuple(self._alive()),
            )
        )
        return ended

    def _arguments(self, name: str) -> list[str | Path]:
        report = f"jsonl={self._folder / name}.jsonl"
        connection: list[str | Path] = ["--dsn", self._lane.conninfo]
        records: list[str | Path] = ["--journal", self._journal] if _CAN_RESUME else []
        if _CAN_RESUME and not self._ledger:
            records.append("--no-ledger")
        if self._known_run():
            marks = [part for key, state in self._marks.items() for part in ("--mark", f"{key}={state}")]
            orphans = self._random.choice((["--orphans", "wait"], ["--orphans", "cancel"], []))
            return ["resume", self._run_id, *connection, *records, *orphans, *marks, "--report", report]
        return ["run", self._folder / "plan.yaml", *connection, *records, "--report", report]

    # --- questions --------------------------------------------------------------------------------------------------

    def _answer(self, asked: Sequence[str]) -> None:
        """Answer as a person would who looks: what is there was done; what an index left behind goes."""
        self._until_no_worker()
        with self._lane.reach() as connection:
            effects = read_effects(connection, self._plan, self._run_id)
            for key in asked:
                step = self._plan.step_of(key)
                if step.work in COUNTED:
                    there = any(row.part == last_part(step.work) for row in effects.of(key))
                elif step.work is Work.BATCHES:
                    there = 0 not in effects.moved[step.id]
                else:
                    there = key in effects.done
                self._marks[key] = "succeeded" if there else "failed"
                if step.work is Work.INDEX and not there:
                    connection.execute(f"DROP INDEX IF EXISTS {self._plan.schema}.i_{step.id}".encode())

    # --- what is known ----------------------------------------------------------------------------------------------

    def _known_run(self) -> str:
        """Return the run's id, from the first event that it has recorded; empty before."""
        if not self._run_id:
            for event in self._events():
                self._run_id = str(event["run"])
                break
        return self._run_id

    def _files(self) -> list[Path]:
        journals = sorted(self._journal.glob("*/events.jsonl"))
        return journals or sorted(self._folder.glob("*.jsonl"))

    def _events(self) -> Iterator[Event]:
        """Read what the run has recorded; a line that is being written, or was torn, is left out."""
        for path in self._files():
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("}\n"):
                    yield json.loads(line)

    def _count_events(self) -> int:
        return sum(path.read_bytes().count(b"\n") for path in self._files())

    def _alive(self) -> list[str]:
        """Return the keys of the run's workers that live."""
        prefix = f"jobplan:{self._known_run()}:"
        query = "SELECT application_name FROM pg_stat_activity WHERE backend_type = 'pg_background' ORDER BY 1"
        with self._lane.reach() as connection:
            names = [str(name) for (name,) in connection.execute(query).fetchall()]
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

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
        effects = Effects()
        if run_id:
            with self._lane.reach() as connection:
                effects = read_effects(connection, self._plan, run_id)
        return Evidence(
            plan=self._plan,
            events=list(self._events()),
            phases=tuple(self._phases),
            effects=effects,
            samples=samples_of(lines, run_id) if run_id else (),
            ledger=self._ledger and _CAN_RESUME,
        )

    def _tidy(self, verdict: Verdict, evidence: Evidence) -> None:
        """Remove the trial's traces, or put the evidence of a violation together."""
        with self._lane.reach() as connection:
            connection.execute(f"DROP SCHEMA {self._plan.schema} CASCADE".encode())
        if not verdict.violations:
            shutil.rmtree(self._folder)
        else:
            found: dict[str, Any] = {"verdict": asdict(verdict), "run": self._run_id, "marks": self._marks}
            found |= {"phases": [asdict(phase) for phase in evidence.phases]}
            found |= {"rows": [asdict(row) for row in evidence.effects.rows], "done": sorted(evidence.effects.done)}
            found |= {"samples": [asdict(sample) for sample in evidence.samples]}
            (self._folder / "evidence.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            with contextlib.suppress(OSError):
                shutil.copytree(self._journal, self._folder / "journal")
            shutil.copy(self._lane.server.log_file, self._folder / "server.log")
        shutil.rmtree(self._journal, ignore_errors=True)
        self._lane.disk.clear()


#: Whether this jobplan keeps a record of its own that it can go on from.
_CAN_RESUME = False
