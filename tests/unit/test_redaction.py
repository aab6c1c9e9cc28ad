"""The redactor: what each preset finds and leaves alone, patterns of one's own, and that twice is once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.redaction import MAX_MATCHES, Redactor

PRESETS = ("keys", "tokens", "email", "cards")
EVERYTHING = Redactor(PRESETS)
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"

# What is put between ⟨ and ⟩ must go, and all the rest stay.
SECRETS = {
    "keys": [
        "OPENAI_API_KEY=⟨sk-proj-A1b2_C3d4-E5f6G7h8⟩",
        "⟨sk-ant-api03-abcdefghijklmnop⟩, and ⟨AKIAIOSFODNN7EXAMPLE⟩.",
        "stripe ⟨sk_live_4eC39HqLyjWDarjtT1zd⟩ google ⟨AIzaSyA1234567890abcdefghijklmnopqrstu⟩",
        "KEY_⟨sk-abcdefghijklmnop⟩ mykey⟨AKIAIOSFODNN7EXAMPLE⟩",
        "git ⟨ghp_16C7e42F292c6912E7710c838347Ae178B4a⟩; slack ⟨xoxb-17653672481-19874698323⟩",
        f"⟨{PEM}⟩\nBuy",
        "⟨-----BEGIN PRIVATE KEY-----\nMIIEpAIBAAKCAQEAA\nabcdefghijklmnopqrst12==⟩ then buy",
        r'{"note": "the key:\n⟨sk-ant-api03-abcdefghijklmnop⟩ \u003c⟨AKIAIOSFODNN7EXAMPLE⟩\u003e"}',
    ],
    "tokens": [
        "⟨eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N⟩ expired",
        "Authorization: Bearer ⟨abc.DEF-123456789⟩",
        'curl -H "authorization: basic ⟨dXNlcjpwYXNz⟩"',
        r'{"header": "x:\nBearer ⟨abcdefghijklmnopqrst⟩"}',
        "postgresql://me:⟨p@ss⟩@db/x and nats://a:4222,nats://u:⟨hunter2⟩@b:4222",
        r"https:\/\/user:⟨hunter2⟩@host\/path",
    ],
    "email": [
        "ask ⟨jane.o'doe+x@mail.example.co.uk⟩.",
        r'"\n⟨jürgen@exämple.de⟩"',
        "⟨über@x.de⟩ https://x.de/?to=⟨me%40x.de⟩&n=1",
    ],
    "cards": [
        "⟨4111111111111111⟩, ⟨5555 5555 5555 4444⟩ 12/27, ⟨3782-822463-10005⟩.",
        r'"\n⟨4111111111111111⟩"',
        "2345 ⟨4111 1111 1111 1111⟩ 9999",
        "⟨378282246310005⟩ ⟨30569309025904⟩ ⟨6011111111111117⟩ ⟨4222222222222⟩ ⟨6212345678900000003⟩",
    ],
}
INNOCENT = {
    "keys": ["risk-adjusted-return-over-twenty-days", "task-force-on-something-long", "ask-bid-spread"],
    "tokens": [
        "bearer certificates, the bearer instrument",
        "basic understanding",
        "http://127.0.0.1:8222/x@y",
    ],
    "email": ["AAPL @ 185.20", "100@185.20", "10:30@open"],
    "cards": [
        "4111111111111112",  # not valid
        "0.4111111111111111 and 4111111111111111.25",
        "550e8400-e29b-41d4-a716-446655440000 12345678-4111-1111-1111-111111111111",
        "1763848800 1763848800123 1763848800123456 1763848800123456789 20261122220000123456",
        "  102.1600  103.2000  101.5000  102.9000  4111111111",
        "x4111111111111111 41111111111111111111111",
    ],
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_cuts_its_secrets_and_nothing_beside_them(preset: str) -> None:
    redactor = Redactor([preset])  # type: ignore[list-item] # the parameters are the presets
    for marked in SECRETS[preset]:
        parts = marked.replace("⟩", "⟨").split("⟨")
        parts[1::2] = [f"[redacted:{preset}]"] * len(parts[1::2])
        assert redactor.redact_text(marked.replace("⟨", "").replace("⟩", "")) == "".join(parts)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_leaves_alone_what_only_looks_a_little_like_it(preset: str) -> None:
    for text in INNOCENT[preset]:
        assert EVERYTHING.redact_text(text) == text


def test_a_named_group_says_what_of_a_match_is_cut_and_how_it_is_called() -> None:
    redactor = Redactor(patterns=[r"badge (?P<badge>\d+)", r"(?i)desk (seven|nine)", r"^\w+, (?P<a>x)?y"])
    assert redactor.redact_text("badge 12 at Desk Nine") == "badge [redacted:badge] at [redacted:pattern]"
    assert redactor.redact_text("first\nso, y\nno, xy") == "first\n[redacted:pattern]\nno, [redacted:a]y"


def test_every_named_group_of_a_match_is_cut() -> None:
    redactor = Redactor(patterns=[r"login (?P<user>\S+) (?P<password>\S+)(?P<more>!*)"])
    assert redactor.redact_text("login me hunter2, then") == "login [redacted:user] [redacted:password] then"


def test_what_overlaps_goes_altogether() -> None:
    redactor = Redactor(patterns=["(?P<one>abcd)", "(?P<two>cdef)", "(?P<three>bc)"])
    assert redactor.redact_text("-abcdef-cdef-") == "-[redacted:one]-[redacted:two]-"


def test_a_match_that_only_shows_after_a_cut_is_cut_too() -> None:
    redactor = Redactor(patterns=["x+", r"\bsecret\b"])
    assert redactor.redact_text("secretx plain") == "[redacted:pattern][redacted:pattern] plain"


def test_a_text_that_never_stops_matching_is_cut_as_a_whole() -> None:
    assert Redactor(patterns=["^a"]).redact_text("a" * 1000) == "[redacted:pattern]" * 9


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (r'{"to": "j\u00fcrgen@x.de"}', r'{"to": "[redacted:email]"}'),
        (r'"{\"to\": \"me@ex\\u00e4mple.de\"}"', r'"{\"to\": \"[redacted:email]\"}"'),
        (
            r'{"\u0041KIA0123456789ABCDEF": "\u0022\u005c\u000a\ud83d"}',
            r'{"[redacted:keys]": "\u0022\u005c\u000a\ud83d"}',
        ),
        (r"\u003cme@x.de\u003e \u00fc", r"\u003c[redacted:email]\u003e \u00fc"),
        (r"\u00fc \\u0041 \u", r"\u00fc \\u0041 \u"),
    ],
)
def test_escapes_of_json_within_a_text_hide_nothing(text: str, kept: str) -> None:
    """They are resolved where they tried to, but for those without which it would be no JSON any more."""
    assert EVERYTHING.redact_text(text) == kept


def test_nuls_hide_nothing() -> None:
    """Nor do they join what they part, as in records of old programs."""
    assert EVERYTHING.redact_text("\0".join("to me@x.de ")) == "to [redacted:email] "
    assert EVERYTHING.redact_text("4111111111111111\x001227") == "[redacted:cards]\x001227"
    assert EVERYTHING.redact_text("a\0b") == "a\0b"


@pytest.mark.parametrize("pattern", ["a", "a.*b|a"])
def test_after_many_matches_of_a_pattern_the_rest_is_cut(pattern: str) -> None:
    """The second looks through all that is left behind each match: without a bound, for hours."""
    redactor = Redactor(patterns=[pattern])
    assert redactor.redact_text("a, " * MAX_MATCHES) == "[redacted:pattern], " * MAX_MATCHES
    kept = "[redacted:pattern]" * (MAX_MATCHES + 1)
    assert redactor.redact_text("a" * 100_000) == kept
    assert redactor.redact_text(kept) == kept


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(a", "must be what RE2 can compile: missing ): (a"),
        ("a)|(b", "must be what RE2 can compile: unexpected ): a)|(b"),
        ("(?=a)", "must be what RE2 can compile: invalid perl operator: (?="),
        ("(?:a{1000}){1000}", "must be what RE2 can compile: invalid repetition size: {1000}"),
        ("x*", "must not match the empty text, as 'x*' does"),
        ("^", "must not match the empty text, as '^' does"),
        (r"a\z", r"must do without \A, \z, \C and (?-m): ^ and $ are the ends of a line"),
        ("(?i-m:^a)", r"must do without \A, \z, \C and (?-m): ^ and $ are the ends of a line"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused_in_words(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match="must") as raised:
        Redactor(patterns=[pattern])
    assert str(raised.value) == words


def test_a_pattern_that_would_take_other_engines_for_ever_ends() -> None:
    text = "a" * 1_000_000 + "b"
    assert Redactor(patterns=["(a+)+$"]).redact_text(text) == text


# Pieces that meet in any order: markers, halves of markers, secrets, their neighbours, letters of all sizes.
pieces = st.sampled_from(
    [
        *(
            "sk-abcdefghijklmnopqrst",
            "AKIAIOSFODNN7EXAMPLE",
            "me@x.de",
            "4111 1111 1111 1111",
            "://u:p@h",
            "eyJ",
        ),
        *(
            "[redacted:keys]",
            "[redacted:",
            "pattern]",
            "[redacted:badge]",
            "\n",
            "\0",
            r"\u0061",
            r"\\u002e",
            " ",
            "\\",
            '"',
            "é",
            "\udcff",
            "€",
        ),
        *("badge 7", "badge ", "secret", "x", "aa", "1234"),
    ]
)
patterns = st.lists(
    st.sampled_from(
        [
            *(
                r"badge (?P<badge>\d)",
                "secret",
                r"\bx\b",
                "x+",
                "^a",
                "a$",
                r"\w+",
                "redacted",
                r"[^ ]+ ",
                ".",
                "é",
            ),
            *(r"\S+@\S+", r"(?s).\n.", "(?P<badge>x)|(?P<y>a)", r"\]", r"\B1"),
        ]
    ),
    max_size=3,
)
presets = st.sets(st.sampled_from(PRESETS))


@given(st.lists(pieces).map("".join), presets, patterns)
def test_redacting_twice_is_redacting_once(text: str, presets: set[str], patterns: list[str]) -> None:
    redactor = Redactor(sorted(presets), patterns)  # type: ignore[arg-type] # sampled from the presets
    once = redactor.redact_text(text)
    assert redactor.redact_text(once) == once


@given(st.lists(pieces).map("".join), st.text())
def test_whatever_stands_around_a_secret_it_goes(before: str, after: str) -> None:
    secret = "AKIA" + "0123456789ABCDEF"
    redacted = EVERYTHING.redact_text(f"{before} {secret} {after}".replace("\ud800", ""))
    assert secret not in redacted


@given(st.text())
def test_text_without_a_match_is_the_same_text(text: str) -> None:
    assert Redactor(["keys"]).redact_text(text) == text
