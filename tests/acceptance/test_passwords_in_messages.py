"""Passwords in connection strings, however they are written: no command prints or records a part of one."""

from __future__ import annotations

import pytest

from tests.acceptance.console import Jobplan

#: The parts of passwords, as they are written and as they are decoded.
PARTS = ("S3cr3t", "Zq9xW", "%53%33cr3t", "0p3nW")
#: Nothing listens there.
NOWHERE = "127.0.0.1:1"
FORMS = {
    "two words": "password=Zq9xW S3cr3t",
    "two words at the end": "host=127.0.0.1 port=1 password=Zq9xW S3cr3t",
    "two words before others": "password=Zq9xW S3cr3t host=127.0.0.1",
    "quote without end": "host=127.0.0.1 password='Zq9xW S3cr3t",
    "quoted": "host=127.0.0.1 port=1 password='Zq9xW S3cr3t'",
    "blanks around": "host=127.0.0.1 port=1 password = 'Zq9xW S3cr3t'",
    "escaped": r"host=127.0.0.1 port=1 password=Zq9xW\ S3cr3t",
    "escaped quote": r"host=127.0.0.1 port=1 password='Zq9xW\' S3cr3t'",
    "backslash at the end": "host=127.0.0.1 password=S3cr3t\\",
    "equals sign": "host=127.0.0.1 port=1 password=Zq9xW=S3cr3t",
    "in capitals": "host=127.0.0.1 PASSWORD=S3cr3t",
    "misspelt": "host=127.0.0.1 pasword=S3cr3t",
    "of the key": "host=127.0.0.1 port=1 sslpassword=S3cr3t sslmode=disable",
    "of both": "host=127.0.0.1 port=1 password=Zq9xW sslpassword=S3cr3t",
    "twice": "host=127.0.0.1 port=1 password=Zq9xW password=S3cr3t",
    "newline": "host=127.0.0.1\npassword=Zq9xW\nS3cr3t",
    "uri": f"postgresql://u:S3cr3t@{NOWHERE}/d",
    "uri of the other scheme": f"postgres://u:S3cr3t@{NOWHERE}/d",
    "uri with an unknown scheme": f"postgressql://u:S3cr3t@{NOWHERE}/d",
    "uri in capitals": f"POSTGRESQL://u:S3cr3t@{NOWHERE}/d",
    "uri without a scheme": f"u:S3cr3t@{NOWHERE}/d",
    "uri with one slash": f"postgresql:/u:S3cr3t@{NOWHERE}/d",
    "uri without slashes": f"postgresql:u:S3cr3t@{NOWHERE}/d",
    "uri with @": f"postgresql://u:Zq9xW@S3cr3t@{NOWHERE}/d",
    "uri with %": f"postgresql://u:Zq9xW%S3cr3t@{NOWHERE}/d",
    "uri with /": f"postgresql://u:Zq9xW/S3cr3t@{NOWHERE}/d",
    "uri with ?": f"postgresql://u:Zq9xW?S3cr3t@{NOWHERE}/d",
    "uri with #": f"postgresql://u:Zq9xW#S3cr3t@{NOWHERE}/d",
    "uri with :": f"postgresql://u:Zq9xW:S3cr3t@{NOWHERE}/d",
    "uri with [": f"postgresql://u:Zq9xW[S3cr3t@{NOWHERE}/d",
    "uri with a blank": f"postgresql://u:Zq9xW S3cr3t@{NOWHERE}/d",
    "uri, encoded": f"postgresql://u:%53%33cr3t@{NOWHERE}/d",
    "uri, in the query": f"postgresql://u@{NOWHERE}/d?password=S3cr3t",
    "uri, in the query, encoded": f"postgresql://u@{NOWHERE}/d?p%61ssword=S3cr3t",
    "uri, in the query, of the key": f"postgresql://u@{NOWHERE}/d?sslpassword=S3cr3t&sslmode=disable",
    "uri, in the query, with &": f"postgresql://u@{NOWHERE}/d?password=Zq9xW&S3cr3t",
    "uri, in both": f"postgresql://u:Zq9xW@{NOWHERE}/d?password=S3cr3t",
    "uri with two hosts": f"postgresql://u:S3cr3t@{NOWHERE},{NOWHERE}/d",
    "uri with a bad port": "postgresql://u:S3cr3t@127.0.0.1:70000/d",
    "uri with a word as port": "postgresql://u:S3cr3t@127.0.0.1:many/d",
    "uri as dbname": f"dbname=postgresql://u:S3cr3t@{NOWHERE}/d",
    "uri as dbname, quoted": f"dbname='postgresql://u:Zq9xW S3cr3t@{NOWHERE}/d'",
    "uri as dbname of a uri": f"postgresql://{NOWHERE}/postgresql://u:S3cr3t@{NOWHERE}/d",
    "uri in quotes": f"'postgresql://u:S3cr3t@{NOWHERE}/d'",
    "uri after a blank": f" postgresql://u:S3cr3t@{NOWHERE}/d",
    "jdbc": f"jdbc:postgresql://{NOWHERE}/d?user=u&password=S3cr3t",
    "driver in the scheme": f"postgresql+psycopg://u:S3cr3t@{NOWHERE}/d",
}
COMMANDS = (
    ("run", "plan.yaml"),
    ("run", "plan.yaml", "--log-format", "json", "--or-resume"),
    ("run", "plan.yaml", "--dry-run"),
    ("dry-run", "plan.yaml"),
    ("status",),
    ("status", "260101-abcdef", "--format", "json"),
    ("doctor",),
    ("cancel", "260101-abcdef"),
    ("attach", "260101-abcdef"),
    ("ledger", "status"),
    ("ledger", "install"),
    ("resume", "last", "--from-ledger", "--journal", "new"),
)


def ran_with(jobplan: Jobplan, commands: list[list[str]], **environment: str) -> tuple[list[int], str]:
    """Run the commands; return their exit codes, and all that they have printed."""
    ended = [jobplan(*command, env={"PGCONNECT_TIMEOUT": "2", **environment}) for command in commands]
    return [ran.code for ran in ended], "".join(ran.out + ran.err for ran in ended)


@pytest.mark.parametrize("form", FORMS)
def test_no_command_shows_a_part_of_a_password(jobplan: Jobplan, form: str) -> None:
    jobplan.plan("- {id: one, sql: SELECT 1}")
    dsn = FORMS[form]
    codes, shown = ran_with(jobplan, [[*command, f"--dsn={dsn}"] for command in COMMANDS])
    more, also_shown = ran_with(jobplan, [["run", "plan.yaml"], ["status"]], JOBPLAN_DSN=dsn)
    assert set(codes + more) <= {2, 4}, (codes, more, shown)
    shown += also_shown
    assert "Traceback" not in shown
    assert [part for part in PARTS if part in shown] == [], shown
    for path in jobplan.folder.rglob("*"):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        assert [part for part in PARTS if part in text] == [], path


def test_no_command_shows_a_password_that_comes_from_elsewhere(jobplan: Jobplan) -> None:
    """PGPASSWORD, a password file, and a service file, for a server that is not there."""
    jobplan.plan("- {id: one, sql: SELECT 1}")
    passwords = jobplan.folder / "passwords"
    passwords.write_text("*:*:*:*:Zq9xW\n", encoding="utf-8")
    passwords.chmod(0o600)
    services = jobplan.folder / "services"
    services.write_text("[there]\nhost=127.0.0.1\nport=1\npassword=0p3nW\n", encoding="utf-8")
    commands = [[*command, "--dsn", dsn] for command in COMMANDS for dsn in ("host=127.0.0.1 port=1", "service=there")]
    codes, shown = ran_with(
        jobplan, commands, PGPASSWORD="S3cr3t", PGPASSFILE=str(passwords), PGSERVICEFILE=str(services)
    )
    assert set(codes) == {4}, shown
    assert [part for part in PARTS if part in shown] == [], shown
