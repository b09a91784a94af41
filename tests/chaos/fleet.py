"""`python -m tests.chaos.fleet`: fleet runs on three clusters under faults, judged by what they left in each database.

A trial draws a plan, a rollout and targets, and begins a fleet run. Faults strike it: its process is killed or asked to
end, a cluster is restarted, its sessions are ended, the path to it is cut, the fleet run is cancelled. Then it is
resumed until nothing is left. What must hold: each step took effect exactly once in each database, no cluster ever had
more workers than slots, waves were barriers, and no worker is left.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psycopg
from psycopg.conninfo import conninfo_to_dict

from runner import __version__
from runner.gateway.ledger.admin import LedgerAdmin
from tests.acceptance.console import clean_environment
from tests.acceptance.fleets import Fleet, Sampler, started_fleet
from tests.chaos.witness import has_crashed
from tests.tunnel import Tunnel

CLUSTERS, DATABASES = 3, 6
#: Seconds after which a command that has not ended is a violation.
PATIENCE = 180.0
#: How often a fleet run is resumed at most.
_RESUMES = 6
_GOOD = 0


class Fault(enum.StrEnum):
    """What happens to a fleet run."""

    SIGKILL = "sigkill"
    SIGTERM = "sigterm"
    SIGINT_TWICE = "sigint_twice"
    CANCEL = "cancel"
    RESTART_FAST = "restart_fast"
    RESTART_IMMEDIATE = "restart_immediate"
    END_SESSIONS = "end_sessions"
    CUT_PATH = "cut_path"


@dataclass(slots=True, kw_only=True)
class Trial:
    """One fleet run: what is drawn for it, and what was seen."""

    number: int
    random: Random
    fleet: Fleet
    tunnels: Sequence[Tunnel]
    folder: Path
    slots: tuple[int, ...] = ()
    steps: tuple[str, ...] = ()
    faults: list[Fault] = field(default_factory=list)
    commands: int = 0
    violations: list[str] = field(default_factory=list)

    def play(self) -> None:
        """Begin the fleet run, let faults strike it, finish it, and judge it."""
        self.fleet.everywhere("TRUNCATE witness")
        self._write()
        with Sampler(self.fleet, patient=True) as sampler:
            code = self._command("fleet", "run", "plan.yaml", "--targets", "targets.yaml", faulty=True)
            for attempt in range(_RESUMES):
                if code == _GOOD:
                    break
                code = self._again(faulty=attempt == 0)
        if code != _GOOD:
            self.violations.append(f"it ended with {code} after {_RESUMES} resumes: {self._output[-1500:]}")
        for cluster, (most, limit) in enumerate(zip(sampler.most, self.slots, strict=True), 1):
            if most > limit:
                self.violations.append(f"cluster c{cluster} had {most} workers, and has {limit} slots")
        self._judge_effects()
        self._judge_waves()

    def _again(self, *, faulty: bool) -> int | None:
        """Resume the fleet run, or begin it if it has no record: a fault came before that."""
        if self._records():
            return self._command("fleet", "resume", "last", *self._marks(), faulty=faulty)
        return self._command("fleet", "run", "plan.yaml", "--targets", "targets.yaml", faulty=faulty)

    _output: str = ""

    def _write(self) -> None:
        random = self.random
        self.slots = tuple(random.choice((1, 2, 4)) for _ in range(CLUSTERS))
        count = random.randint(2, 5)
        self.steps = tuple(f"s{number}" for number in range(count))
        lines = []
        for number, step in enumerate(self.steps):
            needs = [one for one in self.steps[:number] if random.random() < 0.4]
            pause = random.choice((0, 0, 0.1, 0.4))
            lines.append(
                f"  - id: {step}\n    needs: [{', '.join(needs)}]\n"
                f"    sql: \"INSERT INTO witness SELECT '{step}' FROM (SELECT pg_sleep({pause})) AS one\"\n"
            )
        plan = "version: 1\nname: trial\nbudget: {slots: 3}\ndefaults: {timeout: 60s, on_finish: wait}\nsteps:\n"
        (self.folder / "plan.yaml").write_text(plan + "".join(lines).replace("    needs: []\n", ""), encoding="utf-8")
        clusters, targets = "clusters:\n", "targets:\n"
        passfile = self.folder / "passwords"
        passfile.touch(mode=0o600)
        for number, tunnel in enumerate(self.tunnels, 1):
            parts = conninfo_to_dict(tunnel.dsn)
            with passfile.open("a", encoding="utf-8") as file:
                file.write(f"{parts['host']}:{parts['port']}:*:{parts['user']}:{parts['password']}\n")
            server = f"host: {parts['host']}, port: {parts['port']}, user: {parts['user']}"
            where = f"{{{server}, passfile: {passfile}, connect_timeout: 5}}"
            clusters += f"  c{number}: {{connection: {where}, slots: {self.slots[number - 1]}}}\n"
            for name in self.fleet.databases:
                wave = "first" if random.random() < 0.3 else "rest"
                targets += (
                    f"  - {{cluster: c{number}, database: {name}, name: c{number}-{name}, labels: {{wave: {wave}}}}}\n"
                )
        rollout = f"rollout:\n  parallel: {random.choice((1, 3, 9, 18))}\n"
        if "wave: first" in targets and "wave: rest" in targets:
            rollout += "  waves: [{name: first, where: [wave=first]}, {name: rest}]\n"
        text = f"version: 1\nname: trial\n{clusters}{targets}{rollout}"
        (self.folder / "targets.yaml").write_text(text, encoding="utf-8")

    def _command(self, *arguments: str, faulty: bool) -> int | None:
        """Run a command under faults; None if it was killed, or did not end in time."""
        self.commands += 1
        log = self.folder / f"command-{self.commands}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "runner", *arguments],
                cwd=self.folder,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            if faulty:
                for _ in range(self.random.choice((1, 1, 2))):
                    self._strike(process)
            try:
                code: int | None = process.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                self.violations.append(f"{arguments[1]} did not end within {PATIENCE:g} s")
                process.kill()
                code = process.wait()
        self._output = log.read_text(encoding="utf-8")
        if has_crashed(self._output) or code == 70:
            self.violations.append(f"a bug: {self._output[-1500:]}")
        return code

    def _strike(self, process: subprocess.Popen[bytes]) -> None:
        fault = self.random.choice(list(Fault))
        cluster = self.random.randrange(CLUSTERS)
        time.sleep(self.random.uniform(0.1, 2.0))
        if process.poll() is not None:
            return
        self.faults.append(fault)
        match fault:
            case Fault.SIGKILL:
                process.kill()
            case Fault.SIGTERM:
                process.terminate()
            case Fault.SIGINT_TWICE:
                process.send_signal(signal.SIGINT)
                time.sleep(self.random.uniform(0, 0.3))
                process.send_signal(signal.SIGINT)
            case Fault.CANCEL:
                command = [sys.executable, "-m", "runner", "fleet", "cancel"]
                subprocess.run(command, cwd=self.folder, env=clean_environment(), capture_output=True, check=False)
            case Fault.RESTART_FAST:
                self.fleet.servers[cluster].restart("fast")
            case Fault.RESTART_IMMEDIATE:
                self.fleet.servers[cluster].restart("immediate")
            case Fault.END_SESSIONS:
                with psycopg.connect(self.fleet.servers[cluster].dsn, autocommit=True) as admin:
                    admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'jobplan:%'"
                        " AND backend_type = 'client backend'"
                    )
            case Fault.CUT_PATH:
                self.tunnels[cluster].stall()
                time.sleep(self.random.uniform(0.5, 4.0))
                self.tunnels[cluster].resume()

    def _marks(self) -> Iterator[str]:
        """Answer the questions of the last command by what the databases have."""
        done = self.fleet.steps()
        for target, step in re.findall(r"--mark '?([^ :']+):([^ =]+)=…", self._output):
            found = done[target.replace("-", "/", 1)][step]
            yield from ("--mark", f"{target}:{step}={'succeeded' if found else 'failed'}")

    def _judge_effects(self) -> None:
        wanted = dict.fromkeys(self.steps, 1)
        for database, found in self.fleet.steps().items():
            if dict(found) != wanted:
                self.violations.append(f"{database} has {dict(found)}, not each step once")
        for number, server in enumerate(self.fleet.servers, 1):
            with psycopg.connect(server.dsn, autocommit=True) as admin:
                row = admin.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_background'"
                ).fetchone()
            if row is None or row[0] != 0:
                self.violations.append(f"a worker is left on c{number}")

    def _records(self) -> list[Path]:
        """Return the records of fleet runs that have begun: a killed process can leave one that has not."""
        found = (self.folder / ".jobplan" / "fleets").glob("*/fleet.jsonl")
        return [path for path in found if b"\n" in path.read_bytes()]

    def _judge_waves(self) -> None:
        records = self._records()
        if len(records) != 1:
            self.violations.append(f"there are {len(records)} records")
            return
        (record,) = records
        running: dict[str, str] = {}
        for line in record.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            match event["event"]:
                case "fleet_resumed":
                    running.clear()
                case "member_started":
                    running[event["target"]] = event["wave"]
                    if len(set(running.values())) > 1:
                        self.violations.append(f"members of two waves at a time: {running}")
                case "member_finished":
                    running.pop(event["target"], None)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Carry out the trials; return 1 if there was a violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fleet", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=None, help="begin no trial after this long")
    given = parser.parse_args()
    begun = time.monotonic()
    faults: Counter[str] = Counter()
    trials = commands = violations = 0
    with started_fleet(CLUSTERS, DATABASES) as fleet, contextlib.ExitStack() as stack:
        for cluster in range(1, CLUSTERS + 1):
            for name in fleet.databases:
                LedgerAdmin(fleet.dsn(cluster, name), "jobplan").install(__version__)
        tunnels = [Tunnel(server.tcp_dsn) for server in fleet.servers]
        for tunnel in tunnels:
            stack.callback(tunnel.close)
        for number in range(given.trials):
            if given.minutes is not None and time.monotonic() - begun > given.minutes * 60:
                break
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-chaos-")))
            random = Random(f"{given.seed}/{number}")
            trial = Trial(number=number, random=random, fleet=fleet, tunnels=tunnels, folder=folder)
            trial.play()
            trials += 1
            commands += trial.commands
            faults.update(map(str, trial.faults))
            violations += bool(trial.violations)
            for violation in trial.violations:
                say(f"trial {number} ({', '.join(trial.faults)}): {violation}")
            say(f"trial {number}: {', '.join(trial.faults) or 'no fault'}, {trial.commands} commands")
    say(f"{trials} trials, {commands} commands, {violations} with violations, {dict(faults)}")
    say(f"{time.monotonic() - begun:.0f} s")
    return int(violations > 0)


if __name__ == "__main__":
    sys.exit(main())
