"""The few-shot prompt of classify_llm: what stays the same first, the text last. Pure.

Invariant: two prompts of one configuration differ in the text at their end alone, so that a session computes what
comes before once (`keep_prefix`), and after the text nothing but a label is expected.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from string import ascii_uppercase
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_LETTERS = len(ascii_uppercase)

AnswerWith = Literal["labels", "letters"]


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What belongs to a label. Examples written the way the real texts are written help most."""

    description: Annotated[str, Meta(max_length=2000, description="What the label means, in a sentence.")] = ""
    examples: Annotated[
        list[str], Meta(max_length=100, description="Texts that belong to it, written as the real ones are.")
    ] = []

    def __post_init__(self) -> None:
        if not self.description.strip() and not any(example.strip() for example in self.examples):
            raise ValueError("a label needs a description or examples")


class LabelPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt but for its text, and what may follow it."""

    static: str
    endings: Mapping[str, str]  # by label: the continuation that means it

    def with_text(self, text: str) -> str:
        """The whole prompt. A line break in the text would end it: they become blanks."""
        return f"{self.static}{one_line(text)}\nLabel:"


def build(labels: Mapping[str, Label], instruction: str, answer_with: AnswerWith) -> LabelPrompt:
    """The prompt for these labels. Examples come in turns, one of each label after the other.

    Without descriptions and letters the examples stand alone: a list of bare labels made a small model answer the last.
    """
    names = dict(zip(labels, ascii_uppercase if answer_with == "letters" else labels, strict=False))
    lines: list[str] = []
    if answer_with == "letters" or any(label.description.strip() for label in labels.values()):
        lines = [instruction, "", *(_told(shown, label, labels[label]) for label, shown in names.items())]
    turns = zip_longest(*([(names[label], text) for text in labels[label].examples] for label in labels))
    for name, text in filter(None, chain.from_iterable(turns)):
        lines += ["", f"Text: {one_line(text)}", f"Label: {name}"]
    static = "\n".join([*lines, "", "Text: "]).lstrip("\n")
    return LabelPrompt(static=static, endings=_endings(names))


def _told(shown: str, name: str, label: Label) -> str:
    meaning = "; ".join(part for part in (name if shown != name else "", label.description.strip()) if part)
    return f"- {shown}: {meaning}" if meaning else f"- {shown}"


def one_line(text: str) -> str:
    """The text with each run of white space as one blank."""
    return " ".join(text.split())


def _endings(names: Mapping[str, str]) -> Mapping[str, str]:
    """What follows "Label:". Where a name is the beginning of another only the line's end tells them apart."""
    end = "\n" if _overlap(list(names.values())) else ""
    return {label: f" {name}{end}" for label, name in names.items()}


def _overlap(names: Sequence[str]) -> bool:
    return any(other.startswith(name) for name in names for other in names if other != name)
