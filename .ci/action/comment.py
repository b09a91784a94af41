"""Write a report as a comment on the pull request of a job of GitHub Actions: one comment for each plan and command.

The comment has a mark in its first line, by which the next job finds and updates it. Only a comment of the token's own
user is updated, because every user can write the mark. A token that may not write comments, as in a pull request from
a fork, is a warning and no failure.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Comments of one page, and the most pages that are read.
_PAGE, _PAGES = 100, 20
_ATTEMPTS = 3
#: Characters of a comment.
_LIMIT = 65_536
#: The user of the token that GitHub gives to a job; such a token may not ask who it is.
_ACTIONS = "github-actions[bot]"


class RefusedError(Exception):
    """GitHub did not do what was asked."""


class Api:
    """GitHub's REST API, as far as comments need it."""

    def __init__(self, url: str, token: str, *, pause: float = 1.0) -> None:
        if not url.startswith(("https://", "http://")):
            raise RefusedError("GITHUB_API_URL is no address of a server")
        self._url = url.rstrip("/")
        self._token = token
        self._pause = pause

    def ask(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:  # noqa: ANN401 - any JSON value
        """Send a request; one that fails because of the server is sent again. RefusedError if it is not answered."""
        data = None if body is None else json.dumps(body).encode()
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "Content-Type": "application/json",
            "User-Agent": "jobplan",
        }
        request = urllib.request.Request(f"{self._url}{path}", data=data, headers=headers, method=method)  # noqa: S310 - checked
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - checked
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code < 500 or attempt == _ATTEMPTS:
                    raise RefusedError(f"{method} {path}: HTTP {error.code}") from error
            except OSError as error:
                if attempt == _ATTEMPTS:
                    raise RefusedError(f"{method} {path}: {error}") from error
            time.sleep(self._pause * attempt)
        raise AssertionError

    def me(self) -> str:
        """Return the name of the token's user."""
        try:
            return str(self.ask("GET", "/user")["login"])
        except RefusedError:
            return _ACTIONS

    def comments(self, repository: str, number: int) -> Iterator[dict[str, Any]]:
        """Yield the comments of a pull request, the oldest first."""
        for page in range(1, _PAGES + 1):
            path = f"/repos/{repository}/issues/{number}/comments?per_page={_PAGE}&page={page}"
            found = self.ask("GET", path)
            yield from found
            if len(found) < _PAGE:
                return


def mark(command: str, plan: str) -> str:
    """Return the first line of the comment, by which it is found. It has no name of a plan, which could be any text."""
    return f"<!-- jobplan {command} {hashlib.sha256(plan.encode()).hexdigest()[:16]} -->"


def body(first: str, text: str, commit: str) -> str:
    """Return the comment, shortened if GitHub would refuse it."""
    last = f"\n\n<sub>jobplan at commit {commit[:12]}</sub>\n" if commit else "\n"
    room = _LIMIT - len(first) - len(last) - 1
    return f"{first}\n{text if len(text) <= room else text[: room - 1] + '…'}{last}"


def publish(api: Api, repository: str, number: int, first: str, text: str) -> str:
    """Update the comment, or write it; return its address."""
    own = api.me()
    for comment in api.comments(repository, number):
        if str(comment["body"]).startswith(first) and comment["user"]["login"] == own:
            path = f"/repos/{repository}/issues/comments/{comment['id']}"
            return str(api.ask("PATCH", path, {"body": text})["html_url"])
    return str(api.ask("POST", f"/repos/{repository}/issues/{number}/comments", {"body": text})["html_url"])


def pull_request(event: Path) -> tuple[int, str] | None:
    """Return the number and the commit of the pull request; None if the job is about something else."""
    try:
        found = json.loads(event.read_text(encoding="utf-8"))["pull_request"]
        return int(found["number"]), str(found["head"]["sha"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def main(report: Path) -> int:
    """Publish the report, if there is one and the job is about a pull request."""
    about = pull_request(Path(os.environ.get("GITHUB_EVENT_PATH", "")))
    if about is None or not report.is_file():
        print(f"no comment: {'there is no report' if about else 'this job is not about a pull request'}")
        return 0
    number, commit = about
    first = mark(os.environ["COMMAND"], os.environ["PLAN"])
    text = body(first, report.read_text(encoding="utf-8"), commit)
    try:
        api = Api(os.environ.get("GITHUB_API_URL", "https://api.github.com"), os.environ["TOKEN"])
        print(f"comment: {publish(api, os.environ['GITHUB_REPOSITORY'], number, first, text)}")
    except RefusedError as error:
        hint = "It needs the permission pull-requests: write, which pull requests from forks do not have."
        print(f"::warning title=jobplan::The comment was not written ({error}). {hint}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
