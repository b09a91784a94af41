"""The plan of each target: one file, read once for each set of parameters; targets with equal values share a plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from runner.errors import ParameterError, PlanError
from runner.fleet.events import FleetStarted
from runner.fleet.targets import Target
from runner.lint import read_plan
from runner.phrases import some
from runner.plan.graph import not_selected
from runner.plan.model import Plan
from runner.plan.plan_files import files_of
from runner.sql.placeholders import plain_text

#: How many targets with invalid parameters a message lists.
_SHOWN = 5


class FleetPlans:
    """Reads the plan for targets. The values in the targets file override those `given` for the whole fleet."""

    def __init__(
        self,
        path: Path,
        *,
        given: Mapping[str, str],
        params_file: Path | None = None,
        environment: Mapping[str, str] | None = None,
        defaults: Mapping[str, str] | None = None,
        severities: Mapping[str, str] | None = None,
        select: Sequence[str] = (),
        exclude: Sequence[str] = (),
        assume_done: bool = False,
    ) -> None:
        self.path = path
        self._given = dict(given)
        self._read_plan = partial(
            read_plan,
            path,
            params_file=params_file,
            environment=environment or {},
            defaults=defaults or {},
            severities=severities or {},
        )
        self._left_out = partial(not_selected, select=select, exclude=exclude, assume_done=assume_done)
        self._read: dict[tuple[tuple[str, str], ...], tuple[Plan, frozenset[str]]] = {}

    @classmethod
    def of_recorded(cls, began: FleetStarted, severities: Mapping[str, str]) -> FleetPlans:
        """Return the plans of a fleet run that is resumed, with the recorded values of parameters."""
        file = None if began.params_file is None else Path(began.params_file)
        return cls(
            Path(began.file),
            given=began.params,
            params_file=file,
            severities=severities,
            select=began.select,
            exclude=began.exclude,
            assume_done=True,
        )

    def values(self) -> Mapping[str, str]:
        """Return the values of parameters from all sources except the targets file: a resume uses the same values."""
        plan = self._read_plan(given=self._given, require_values=False)
        return {name: plain_text(value) for name, value in plan.values.items()}

    def of(self, target: Target) -> tuple[Plan, frozenset[str]]:
        """Return the plan of a target, and the steps that are not selected. PlanError if it is not valid."""
        key = tuple(sorted(target.params.items()))
        if key not in self._read:
            plan = self._read_plan(given={**self._given, **target.params})
            self._read[key] = plan, self._left_out(plan)
        return self._read[key]

    def check(self, targets: Sequence[Target]) -> Plan:
        """Read the plan of every target, and return that of the first. PlanError or ParameterError if one is invalid.

        ParameterError names the targets whose values do not fit.
        """
        wrong: dict[str, list[str]] = {}
        errors: dict[str, ParameterError] = {}
        for target in targets:
            try:
                self.of(target)
            except ParameterError as error:
                text = "; ".join(problem.message for problem in error.problems)
                wrong.setdefault(text, []).append(target.name)
                errors.setdefault(text, error)
        if wrong:
            text, names = next(iter(wrong.items()))
            raise ParameterError(
                f"{self.path} cannot run with the parameters of {some(names, _SHOWN)}", errors[text].problems
            )
        return self.of(targets[0])[0]

    def sources(self, plan: Plan) -> str:
        """Return the SHA-256 of the files that the plan is made of, in hexadecimal digits."""
        digest = hashlib.sha256()
        for file in sorted(files_of(plan)):
            try:
                data = file.read_bytes()
            except OSError as error:
                raise PlanError(f"{file} cannot be read: {error.strerror}") from error
            digest.update(f"{len(data)}\n".encode())
            digest.update(data)
        return digest.hexdigest()
