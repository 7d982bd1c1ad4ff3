"""The form of a summary, whoever wrote it: the language model or gatewayd_handlers.extractive."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gatewayd_handlers.summary_facts import Severity

MAX_HEADLINE_CHARS = 120
MAX_TEXT_CHARS = 400
MAX_DEVICES = 8
MAX_COUNTS = 6
MAX_NAME_CHARS = 120


class Count(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often something was said."""

    what: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
    n: Annotated[int, Meta(ge=1)]


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `summary` of a result holds."""

    headline: Annotated[str, Meta(min_length=1, max_length=MAX_HEADLINE_CHARS)]
    what_happened: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)]
    severity: Severity
    devices: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]], Meta(max_length=MAX_DEVICES)
    ]
    counts: Annotated[list[Count], Meta(max_length=MAX_COUNTS)]


class Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The part that a language model writes. The rest is facts: a small model neither counts nor judges well."""

    headline: Annotated[str, Meta(min_length=1, max_length=MAX_HEADLINE_CHARS)]
    what_happened: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)]


def grammar(*, max_sentences: int = 2, sentence_chars: int = 110) -> str:
    """GBNF of Written as JSON: one line, a few sentences.

    A grammar and not a JSON schema: a schema lets the model write white space for ever after the object, and one
    sentence over and over inside of it; both happened.
    """
    return (
        r'root ::= "{\"headline\": \"" head "\", \"what_happened\": \"" sentence (" " sentence){0,'
        + str(max_sentences - 1)
        + r'} "\"}"'
        + "\n"
        + "head ::= [A-Z0-9] c{7,"
        + str(min(sentence_chars, MAX_HEADLINE_CHARS) - 20)
        + "}\n"
        + "sentence ::= [A-Z0-9] c{7,"
        + str(sentence_chars)
        + '} "."\n'
        + r'c ::= [^".*\[\]{}<>|\\\x00-\x1f] | "." [0-9a-z]'
        + "\n"
    )


def check(summary: Mapping[str, Any]) -> Summary:
    """Raises msgspec.ValidationError unless `summary` has the form."""
    return msgspec.convert(summary, Summary)


def sentences(text: str) -> list[str]:
    """The sentences of a text, each once: a small model likes to say things again."""
    found = (sentence.strip() for sentence in re.findall(r".+?\.(?=\s|$)", text))
    return list(dict.fromkeys(found)) or [text.strip()]


def shortened(text: str, max_chars: int) -> str:
    """At most `max_chars` of a text, cut between words, with an ellipsis where something was cut off."""
    text = " ".join(text.split())
    if len(text) <= max_chars:
        return text
    head = text[: max_chars - 1]
    cut = head.rfind(" ")
    return (head[:cut] if cut > max_chars // 2 else head).rstrip(" ,;:") + "…"
