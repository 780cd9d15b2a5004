"""True cases are replaced and counted; near misses stay letter by letter."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.corpus.steps.pii import PiiStep, redact
from trivium.corpus.steps.secrets import redact_secrets
from trivium.recipe.steps import Pii

ALL = Pii()


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("mail jane.doe+x@mail.uni-bonn.de now", "mail <EMAIL> now"),
        ("<o'neil@irish.ie>, (a@b.co).", "<<EMAIL>>, (<EMAIL>)."),
        ("host 151.101.1.69, up", "host <IP>, up"),
        ("http://93.184.216.34:8080/x", "http://<IP>:8080/x"),
        ("2a00:1450:4001:81b::200e answers", "<IP> answers"),
        ("at 2a00:1450:4001:081b:0000:0000:0000:200e.", "at <IP>."),
        ("call +44 20 7946 0958!", "call <PHONE>!"),
        ("call (212) 736-5000 or 212-736-5000", "call <PHONE> or <PHONE>"),
        ("+4930901820", "<PHONE>"),
        ("IBAN DE89 3704 0044 0532 0130 00 BIC", "IBAN <IBAN> BIC"),
        ("GB82WEST12345698765432.", "<IBAN>."),
        ("card 4111 1111 1111 1111 ok", "card <CARD> ok"),
        ("5555-5555-5555-4444", "<CARD>"),
        ("378282246310005", "<CARD>"),
        ("é 日本 a@b.de\nñ", "é 日本 <EMAIL>\nñ"),
    ],
)
def test_found(text: str, made: str) -> None:
    assert redact(text, ALL)[0] == made


@pytest.mark.parametrize(
    "text",
    [
        "@dataclass class A: pass; me@localhost; logo@2x.png; npm i left-pad@1.3.0 a @ b",
        "user@example.com, info@mail.example.org and x@host.test",
        "127.0.0.1 192.168.1.10 10.0.0.1 0.0.0.0 255.255.255.255 169.254.1.1 203.0.113.9",
        "Linux 2.6.18.5, v151.101.1.69, version 151.101.1.69, section 1.2.3.4, 300.1.2.3, 151.101.1.69.5",
        "std::vector<int> a::b ::1 fe80::1 12:30:45 x[::2] 2001:db8::1",
        "2024-01-15 10:30:45, 1234567890, 3.14159265358979, 100-200-3000, 1,234,567.89, ISBN 978-3-16-148410-0",
        "DE89 3704 0044 0532 0130 01 and GB82TEST12345698765432",
        "4111 1111 1111 1112 and 4111111111111111000 and 0000 0000 0000 0000",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b, uuid 123e4567-e89b-12d3-a456-426614174000",
        "15.01.2024 - 16.01.2024, 2019-2020-2021, 1 2 3 4 5 6 7 8 9 10 11 12",
    ],
)
def test_near_misses_stay(text: str) -> None:
    assert redact(text, ALL) == (text, {})


GITHUB = "ghp_" + "a1B2" * 9
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("id AKIAIOSFODNN7EXAMPLE.", "id <AWS_KEY>."),
        (f"token={GITHUB}", "token=<GITHUB_TOKEN>"),
        ("xoxb-123456789012-abcdefGHIJKL", "<SLACK_TOKEN>"),
        ("sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc", "<STRIPE_KEY>"),
        (f"Bearer {JWT} end", "Bearer <JWT> end"),
        ("AIza" + "Sy" + "B1c2D" * 6 + "xyz end", "<GOOGLE_KEY> end"),
        (
            "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nabc=\n-----END RSA PRIVATE KEY-----\nb",
            "a\n<PRIVATE_KEY>\nb",
        ),
        ('password = "hG7$kQ2!pZ9xW4vB"', 'password = "<SECRET>"'),
        ("API_KEY: '9f8b7c6d5e4a3b2c1d0e'", "API_KEY: '<SECRET>'"),
    ],
)
def test_secrets_are_found(text: str, made: str) -> None:
    assert redact_secrets(text)[0] == made


@pytest.mark.parametrize(
    "text",
    [
        'password = "correct horse battery staple"',
        'token = "my_secret_token_value"',
        "secret_key = os.environ['SECRET_KEY_FOR_PRODUCTION']",
        'api_key = "xxxxxxxxxxxxxxxxxxxx1"',
        "the prefix ghp_ marks a token, AKIA a key, sk_live_ another",
        "-----BEGIN CERTIFICATE-----\nMIIEpAIBAAKCAQEA\n-----END CERTIFICATE-----",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----",
        "eyJ is how base64 of a JSON object begins: eyJhbGciOiJIUzI1NiJ9",
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert redact_secrets(text) == (text, {})


def test_counts_by_type_and_nothing_else_changes() -> None:
    document = {"text": "a@b.de x@y.fr 151.101.1.69\nplain\n+44 20 7946 0958\n", "key": "k"}
    assert PiiStep(ALL)(document) is None
    assert document == {
        "text": "<EMAIL> <EMAIL> <IP>\nplain\n<PHONE>\n",
        "key": "k",
        "pii": {"email": 2, "ip": 1, "phone": 1},
    }


@pytest.mark.parametrize("kind", ["email", "ip", "phone", "iban", "card", "secrets"])
def test_each_type_can_be_switched_off(kind: str) -> None:
    text = f"a@b.de 151.101.1.69 (212) 736-5000 GB82WEST12345698765432 378282246310005 {GITHUB}"
    name = {"secrets": "github_token"}.get(kind, kind)
    assert name in redact(text, ALL)[1]
    assert name not in redact(text, ALL.model_copy(update={kind: False}))[1]


@given(st.text(st.sampled_from("a1 .@:+-()\n4é<>GB8=_'\"")))
def test_a_second_time_finds_nothing(text: str) -> None:
    once = redact(text, ALL)[0]
    assert redact(once, ALL) == (once, {})


def test_a_hostile_line_is_linear() -> None:
    started = time.process_time()
    for text in (
        "a" * 10**6 + "@",
        "1 " * 400_000,
        "1.1." * 300_000,
        "a:" * 400_000,
        "GB12" * 200_000,
        "eyJ" * 300_000,
    ):
        redact(text, ALL)
    assert time.process_time() - started < 30


def test_an_address_that_is_a_version_is_no_telephone_number() -> None:
    for text in ("version: 93.184.216.34", "release 212.555.133.12 of it"):
        assert redact(text, Pii())[0] == text
