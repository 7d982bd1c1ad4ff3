"""What a summary says and its window does not: the check that a language model needs. Pure.

Looked at is what a small model is known to invent: names with digits in them and numbers ("door-7"), words it has from
the prompt's examples ("compressor"), and words of trouble ("failed") where nothing of the kind was said. That a summary
passes does not make it true; that it does not pass makes it unusable.
"""

import re
from collections.abc import Iterable, Sequence

from gatewayd_handlers.summary_facts import Facts

# A name or number with a digit in it: "door-7", "10.0.0.1:80", "17", "0x1f".
_WITH_DIGIT = re.compile(r"[^\W\d_]*[\w.:/-]*\d(?:[\w.:/-]*\w)?")
_WORD = re.compile(r"[^\W\d_]{4,}")
# Stems: "fail" stands for failed, failure, failing.
_TROUBLE = re.compile(
    r"fail|error|fatal|panic|crash|denied|invalid|refus|unreachable|abort|exceed|lost|unable|overflow|abnormal|alarm"
    r"|corrupt|attack|break-in|timed? ?out|restart|reboot|shut ?down|unauthori[sz]ed|unsuccessful|stuck|jammed|leak",
    re.IGNORECASE,
)


def unsupported(written: str, texts: Iterable[str], facts: Facts, examples: Sequence[str]) -> list[str]:
    """Spans of `written` that neither `texts` nor `facts` support, in order, each once.

    `examples` are the texts of the prompt's examples.
    """
    window = "\n".join(texts).lower()
    names = {name.lower() for name in _WITH_DIGIT.findall(window)} | _numbers(facts)
    names |= {part for name in names for part in re.split(r"[^\w]+", name)}
    echoes = {word.lower() for example in examples for word in _WORD.findall(example)}
    spans = [span for span in _WITH_DIGIT.findall(written) if span.lower().strip(".:/-") not in names]
    spans += [word for word in _WORD.findall(written) if word.lower() in echoes and not _known(word, window)]
    spans += [
        stem for stem in _TROUBLE.findall(written) if stem.lower().replace(" ", "") not in window.replace(" ", "")
    ]
    return list(dict.fromkeys(spans))


def _known(word: str, window: str) -> bool:
    """Whether the window has the word, or one with the same beginning ("sensors" for "sensor"), or needs none."""
    word = word.lower()
    return word in _PLAIN or word[: max(4, len(word) - 2)] in window


def _numbers(facts: Facts) -> set[str]:
    """What was counted may be said: how often each statement was made, how many there were, and how many in all."""
    counted = {facts.n_texts, len(facts.statements), *(statement.n for statement in facts.statements)}
    return {str(n) for n in counted} | {f"{n}x" for n in counted}


# Words that say nothing about a device.
_PLAIN = frozenset(
    re.findall(
        r"\w+",
        "about after again also been before between both during each ever every first from gave have into last many"
        " more most none once only other over same seen some still than that their them then there these they this"
        " three time times twice under until very went were what when where which while with without would found normal"
        " normally message messages problem problems",
    )
)
