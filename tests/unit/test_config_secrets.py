"""Derived secrets, and the form of the password file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbastion.config.secrets import (
    Secrets,
    derive,
    hkdf,
    load_passwords,
    parse_passwords,
    password_variable,
)
from support.configs import understood

SECRET = b"a secret of the tests"


def test_hkdf_gives_the_first_vector_of_rfc_5869() -> None:
    output = hkdf(
        bytes.fromhex("0b" * 22),
        bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"),
        42,
        salt=bytes.fromhex("000102030405060708090a0b0c"),
    )

    assert output.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
        "34007208d5b887185865"
    )


def test_hkdf_gives_the_third_vector_of_rfc_5869() -> None:
    output = hkdf(bytes.fromhex("0b" * 22), b"", 42)

    assert output.hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
        "9d201395faa4b61a96c8"
    )


def test_what_is_derived_differs_by_purpose_and_by_secret() -> None:
    derived = {
        derive(secret, purpose)
        for secret in (SECRET, SECRET + b"!")
        for purpose in ("api-token", "pg:postgres", "pg:replicator")
    }

    assert len(derived) == 6
    assert all(len(text) == 64 for text in derived)


def test_passwords_of_the_file_split_at_the_first_colon() -> None:
    text = "# roles\n\npostgres:a:b#c\n  replicator: with spaces \n"

    assert parse_passwords(text) == {
        "postgres": "a:b#c",
        "replicator": " with spaces ",
    }


@pytest.mark.parametrize(
    "text", ["postgres", ":x", "postgres:", "a:1\na:2", "a:\x07", "x\n\n  y"]
)
def test_a_wrong_line_is_named_by_its_number_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"line \d") as caught:
        parse_passwords(text)

    assert text.strip() not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_password_file_or_refused(text: str) -> None:
    try:
        passwords = parse_passwords(text)
    except ValueError:
        return
    assert all(role and password for role, password in passwords.items())


def test_the_environment_wins_over_what_is_derived() -> None:
    section = understood().postgresql
    assert section is not None

    passwords = load_passwords(
        section, SECRET, {"PGBASTION_PASSWORD_REPLICATOR": "given"}
    )

    assert passwords == {
        "postgres": derive(SECRET, "pg:postgres"),
        "replicator": "given",
        "rewinder": derive(SECRET, "pg:rewinder"),
    }


def test_the_variable_of_a_role_holds_letters_digits_and_underscores() -> None:
    assert password_variable("my-Role.1") == "PGBASTION_PASSWORD_MY_ROLE_1"


def test_secrets_do_not_show_themselves() -> None:
    secrets = Secrets(
        cluster=b"cluster!",
        write_token="write!",
        read_token="read!",
        passwords={"a": "pw!"},
    )

    assert "!" not in repr(secrets)


def test_a_password_in_connect_dsn_does_not_show_itself() -> None:
    config = understood(postgresql={"connect_dsn": "postgres://u:hidden@h/db"})

    assert "hidden" not in repr(config)
