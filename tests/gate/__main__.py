"""`python -m tests.gate`: run plan pairs for real and dry, and print how often the dry run was right.

The exit code is 1 if a plan that succeeds was reported as failing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from runner.embedded import start_server
from tests.gate.cases import Case
from tests.gate.corpus import every_case, sample
from tests.gate.trial import Outcome, Range, Real, Result, compare, counts

_HEADS = {
    Outcome.CLEAN: "succeeds, no error",
    Outcome.FALSE_ALARM: "succeeds, FALSE ERROR",
    Outcome.FOUND: "fails, error found",
    Outcome.OPEN: "fails, not checkable",
    Outcome.DOCUMENTED: "fails, left out by the docs",
    Outcome.MISSED: "fails, MISSED",
}


def main() -> int:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.gate", description=__doc__)
    parser.add_argument("--dsn", help="a superuser's connection; without it a throwaway server is started")
    parser.add_argument("--sample", type=int, metavar="N", help="only N cases, always the same ones")
    parser.add_argument(
        "--part", type=_part, metavar="K/N", help="only the K-th of N parts, each with cases of all groups"
    )
    parser.add_argument("--group", help="only this group")
    parser.add_argument("--outcomes", type=Path, help="a file that keeps how runs ended, to run each pair only once")
    parser.add_argument("--show", nargs="*", default=["FALSE_ALARM", "MISSED"], help="outcomes to list")
    arguments = parser.parse_args()
    cases = [case for case in every_case() if arguments.group in {None, case.group}]
    cases = sample(cases, arguments.sample or len(cases))
    if arguments.part:
        number, parts = arguments.part
        cases = cases[number - 1 :: parts]
    if arguments.dsn:
        return _trial(arguments.dsn, cases, arguments)
    with start_server(progress=print) as server:
        return _trial(server.dsn, cases, arguments)


def _part(text: str) -> tuple[int, int]:
    """Return the number of a part, and how many there are."""
    number, _, parts = text.partition("/")
    if not 1 <= int(number) <= int(parts):
        raise ValueError
    return int(number), int(parts)


def _trial(dsn: str, cases: list[Case], arguments: argparse.Namespace) -> int:
    kept = _kept(arguments.outcomes)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        field = Range(dsn, Path(folder))
        try:
            for case in cases:
                plan = field.plan(case)
                real = kept.get(case.name) or field.run(case, plan)
                kept[case.name] = real
                results.append(compare(case, real, field.dry_run(plan)))
        finally:
            field.close()
            _keep(arguments.outcomes, kept)
    _print(results, {Outcome[name] for name in arguments.show})
    return int(any(result.outcome is Outcome.FALSE_ALARM for result in results))


def _kept(path: Path | None) -> dict[str, Real]:
    if path is None or not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: Real(step=step, error=error) for name, (step, error) in found.items()}


def _keep(path: Path | None, kept: dict[str, Real]) -> None:
    if path is not None:
        path.write_text(json.dumps({name: [real.step, real.error] for name, real in kept.items()}), encoding="utf-8")


def _print(results: list[Result], shown: set[Outcome]) -> None:
    for result in results:
        if result.outcome in shown:
            print(f"{result.outcome.name} {result.case.name}")
            print(f"    run: {result.real.error or 'succeeded'}")
            for line in result.said:
                print(f"    dry run: {line}")
    print()
    print(f"| group | pairs | {' | '.join(_HEADS.values())} |")
    print("|---|" + "---:|" * (len(Outcome) + 1))
    table = dict(counts(results))
    table["all"] = {outcome: sum(row[outcome] for row in table.values()) for outcome in Outcome}
    for group, row in table.items():
        print(f"| {group} | {sum(row.values())} | {' | '.join(str(row[outcome]) for outcome in Outcome)} |")


if __name__ == "__main__":
    sys.exit(main())
