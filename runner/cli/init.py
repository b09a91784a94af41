"""`jobplan init`: write a first plan, its schema for editors, and a README about checks in CI."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

import click

from runner.errors import UsageError

#: The plan; the name of its table is unlikely to exist.
PLAN: Final = """\
# yaml-language-server: $schema=plan-v1.schema.json
version: 1
name: first
description: A first plan, to try and to change. It creates a table, fills it, deletes old rows and checks the result.
owner: your team

params:
  keep_days: {type: integer, default: 30, minimum: 1, description: Days of visits to keep.}

budget:
  slots: 2              # at most 2 workers of this run at any moment
  reserve: 1            # always leave one of the server's worker processes free

run_timeout: 10m
on_failure: drain       # when a step fails, start no further steps and let running steps finish

defaults:
  timeout: 1m           # the server cancels a step that takes longer
  lock_timeout: 5s      # the server cancels a statement that waits longer than this for a lock
  on_finish: wait       # the run ends after the step; with detach the step could continue after the run

steps:
  - id: create_table
    sql: CREATE TABLE IF NOT EXISTS jobplan_first_visits (at timestamptz NOT NULL, page text NOT NULL)

  - id: fill
    needs: [create_table]
    sql: |
      INSERT INTO jobplan_first_visits
      SELECT now() - n * interval '1 hour', 'page ' || n % 10 FROM generate_series(1, 2000) AS n

  - id: purge
    description: Delete old rows. The step is idempotent, so it is retried if it cannot get a lock.
    needs: [fill]
    sql: DELETE FROM jobplan_first_visits WHERE at < now() - make_interval(days => :keep_days)
    idempotent: true
    retry: {max_attempts: 3, delay: 1s, backoff: 2, on: [lock_not_available, deadlock_detected]}

  - id: vacuum
    needs: [purge]
    sql: VACUUM (ANALYZE) jobplan_first_visits

  - id: check
    description: Fail the step, and with it the run, if old rows are left.
    needs: [purge]
    sql: SELECT count(*) FROM jobplan_first_visits WHERE at < now() - make_interval(days => :keep_days)
    expect: {value: 0}
"""

#: The next steps; `{folder}` is the folder of the plans.
README: Final = """\
# Plans

SQL that jobplan runs on our databases. A plan limits how much of the server a run may use,
when the server cancels a step, and what must be true after it.

    jobplan validate {folder}/*.yaml               # needs no server
    jobplan run --embedded {folder}/first.yaml     # on a throwaway PostgreSQL
    jobplan run --dsn service=staging {folder}/first.yaml --param keep_days=7

An editor with a YAML language server completes and explains every key: the first line of a plan names the schema in the
same folder (`plan-v1.schema.json`; `jobplan schema` prints the schema of the installed version). `jobplan validate
--explain JP204` explains a code; a comment `# jobplan: ignore=JP341` beside a step silences a rule there.

## In CI

jobplan is not on the package index yet: replace OWNER with the owner of its repository, and COMMIT with the full SHA of
a commit.

GitHub Actions, `.github/workflows/plans.yaml`:

```yaml
on: [pull_request]
jobs:
  plans:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with: {{python-version: "3.12"}}
      - run: pip install "jobplan @ git+https://github.com/OWNER/jobplan@COMMIT"
      - run: jobplan validate --strict {folder}/*.yaml
```

GitLab CI, `.gitlab-ci.yml`:

```yaml
plans:
  image: python:3.12
  script:
    - pip install "jobplan @ git+https://github.com/OWNER/jobplan@COMMIT"
    - jobplan validate --strict {folder}/*.yaml
```

Before each commit, `.pre-commit-config.yaml`:

```yaml
repos:
  - repo: local
    hooks:
      - id: jobplan
        name: jobplan validate
        language: python
        additional_dependencies: ["jobplan @ git+https://github.com/OWNER/jobplan@COMMIT"]
        entry: jobplan validate --strict
        files: ^{folder}/.*\\.yaml$
```
"""


@click.command()
@click.argument("folder", metavar="[DIR]", default="plans", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a first plan into DIR (default: plans), with its schema for editors and a README with CI snippets.

    The command asks no questions and overwrites nothing: if one of the files exists, it writes none.
    """
    from runner.plan.schema_check import schema_text

    shown = folder.as_posix()
    files = {
        folder / "first.yaml": PLAN,
        folder / "plan-v1.schema.json": schema_text(),
        folder / "README.md": README.format(folder=shown),
    }
    there = [path.as_posix() for path in files if path.exists() or path.is_symlink()]
    if there:
        raise UsageError(f"{' and '.join(there)}: already exists, so nothing was written.", hint="Name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: cannot be written: {error.strerror}.") from None
    for path in files:
        click.echo(f"wrote {path.as_posix()}")
    plan = shlex.quote((folder / "first.yaml").as_posix())
    click.echo(f"\nNext:\n  jobplan validate {plan}\n  jobplan run --embedded {plan}")
