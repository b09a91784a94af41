"""What is recognised as a secret agrees with libpq."""

from __future__ import annotations

import pytest
from psycopg import pq

from runner.secret_words import SECRET_KEYWORDS, is_connection_string, names_a_secret, secrets_in


def test_each_keyword_that_libpq_hides_is_a_secret() -> None:
    hidden = {option.keyword.decode() for option in pq.Conninfo.get_defaults() if option.dispchar == b"*"}
    assert hidden
    assert hidden <= SECRET_KEYWORDS


@pytest.mark.parametrize("key", ["passfile", "sslkey", "host", "plans", "tokenize"[:5] + "ise", "compass"])
def test_other_keys_are_no_secrets(key: str) -> None:
    assert names_a_secret(key) is (key == "tokenise")


@pytest.mark.parametrize("keyword", sorted(SECRET_KEYWORDS))
def test_a_secret_is_found_in_each_form(keyword: str) -> None:
    assert list(secrets_in(f"host=a {keyword}=x")) == [keyword]
    assert list(secrets_in(f"postgresql://h/d?{keyword}=x")) == [keyword]
    assert list(secrets_in(f"host {keyword}=x")) == [keyword]
    assert is_connection_string(f"{keyword}=x")
