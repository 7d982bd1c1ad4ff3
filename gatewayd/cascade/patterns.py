"""What can be blacked out by name: e-mail, IP and MAC addresses, UUIDs, phone and card numbers, IBANs, numbers.

Invariant: in doubt a match goes. Where a checksum exists (Luhn's for cards, ISO 7064's for IBANs) it decides, so that a
meter reading is no card; everything else goes by its form. A search takes time linear in the text: every pattern begins
at a place where the text before cannot belong to it, or is of bounded length.

Sources: RFC 5322 (atext), RFC 4291, IEEE 802, RFC 9562, E.164, ISO/IEC 7812-1 (annex B), SWIFT's IBAN registry 99.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping

Span = tuple[int, int]
Find = Callable[[str], Iterator[Span]]

_ATEXT = r"\w!#$%&'*+/=?^`{|}~\-"
_EMAIL = re.compile(
    rf"""(?:(?<![{_ATEXT}.])[{_ATEXT}][{_ATEXT}.]*|"[^"\n]{{1,64}}")@"""
    r"(?:[\w-]+(?:\.[\w-]+)+|\[[0-9A-Fa-f:.]{2,45}\])"
)
_IPV4 = re.compile(
    r"(?<!\d)(?<!\d\.)\d{1,3}(?:\.\d{1,3}){3}(?:\.\d{1,5})?(?!\.?\d)"
)  # tcpdump adds the port as a fifth
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f.]*:)[0-9A-Fa-f:.]{2,64}(?!\w)")
_HEX = "[0-9A-Fa-f]"
_MAC = re.compile(
    rf"(?<!{_HEX})(?<!{_HEX}{{2}}[:-])(?:{_HEX}{{2}}([:-])(?:{_HEX}{{2}}\1){{4}}(?:{_HEX}{{2}}\1{_HEX}{{2}}\1)?{_HEX}{{2}}"
    rf"|(?:{_HEX}{{4}}\.){{2}}{_HEX}{{4}}"
    rf"|(?=\d{{0,11}}[A-Fa-f]){_HEX}{{12}})(?!{_HEX}|[:-]{_HEX}{{2}}(?!{_HEX}))"
)
_UUID = re.compile(rf"(?<!{_HEX}){_HEX}{{8}}-(?:{_HEX}{{4}}-){{3}}{_HEX}{{12}}(?!{_HEX})")
_GAP = r"[ \u00a0()./-]{0,3}"
_PHONE = re.compile(
    rf"(?<![\d+])(?:\+\d(?:{_GAP}\d){{6,14}}"  # international
    rf"|00[1-9](?:{_GAP}\d){{7,13}}"
    rf"|\(?0[1-9]\d{{0,4}}\)?[ \u00a0/-](?:[ \u00a0/-]?\d){{5,10}}"  # national, with its area's code set off
    r"|\(?[2-9]\d{2}(?:\) ?|[ .-])\d{3}[ .-]\d{4})"  # North America
    r"(?!\d)"
)
_DIGITS = re.compile(r"(?<!\d)\d(?:[\s.-]?\d){12,}")
_GROUP = re.compile(r"\d+")
_MAX_GROUPS = 7  # in which a card's number is written; five are usual at most
_IBAN_HEAD = re.compile(r"(?<![^\W_])([A-Za-z]{2})\d{2}")
_NUMBER = re.compile(r"\d(?:[\d.,]*\d)?(?:[eE][+-]?\d+)?")

_IBANS = (  # countries, and how many characters theirs have
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 "
    "EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 "
    "KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 "
    "PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 "
    "UA29 VA22 VG24 XK20 YE30 "
)
_IBAN_CHARS = {entry[:2]: int(entry[2:]) for entry in _IBANS.split()}


def _by(pattern: re.Pattern[str], is_one: Callable[[str], bool] = bool) -> Find:
    def find(text: str) -> Iterator[Span]:
        return (match.span() for match in pattern.finditer(text) if is_one(match[0]))

    return find


def _where(find: Find, *, least: int, has: str = "") -> Find:
    """Look only into texts of so many characters with one of these among them: most texts and numbers are spared."""

    def found(text: str) -> Iterator[Span]:
        if len(text) < least or (has and not any(char in text for char in has)):
            return iter(())
        return find(text)

    return found


def _is_ipv4(text: str) -> bool:
    return all(int(part) <= 255 for part in text.split(".")[:4])


def _ips(text: str) -> Iterator[Span]:
    found = _IPV6.finditer(text) if ":" in text else ()
    sixes = [span for match in found if (span := _ipv6_span(match)) is not None]
    yield from sixes
    for start, end in _by(_IPV4, _is_ipv4)(text):
        if not any(first <= start < last for first, last in sixes):  # one in the old form ends in an IPv4 address
            yield start, end


def _ipv6_span(match: re.Match[str]) -> Span | None:
    """Of a run of hexadecimal digits, colons and dots: the address in it. Punctuation may follow."""
    text = match[0].rstrip(".")
    for candidate in (text, text.removesuffix(":")):
        try:
            ipaddress.IPv6Address(candidate)
        except ValueError:
            continue
        return match.start(), match.start() + len(candidate)
    return None


def is_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_card(digits: str) -> bool:
    """Whether it can be a card's number. Thirteen digits that begin with 1 are milliseconds since the epoch."""
    if not 13 <= len(digits) <= 19 or not is_luhn(digits):
        return False
    return int(digits[0]) == 4 if len(digits) == 13 else int(digits[0]) in (2, 3, 4, 5, 6, 8, 9)


def _cards(text: str) -> Iterator[Span]:
    """A card may stand among other groups of digits: from every group on as many as make one, the longest first."""
    for run in _DIGITS.finditer(text):
        groups = list(_GROUP.finditer(run[0]))
        index = 0
        while index < len(groups):
            end = _card_end(groups, index)
            if end is not None:
                yield run.start() + groups[index].start(), run.start() + groups[end].end()
            index = index + 1 if end is None else end + 1


def _card_end(groups: list[re.Match[str]], first: int) -> int | None:
    digits, found = "", None
    for index in range(first, min(first + _MAX_GROUPS, len(groups))):
        digits += groups[index][0]
        if len(digits) > 19:
            break
        if _is_card(digits):
            found = index
    return found


def is_iban(text: str) -> bool:
    """Whether its check digits are right (ISO 13616, with ISO 7064 MOD 97-10). Without blanks, in upper case."""
    turned = text[4:] + text[:4]
    return int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def _ibans(text: str) -> Iterator[Span]:
    done = 0
    for head in _IBAN_HEAD.finditer(text):
        n_chars = _IBAN_CHARS.get(head[1].upper())
        if n_chars is None or head.start() < done:
            continue
        end = _iban_end(text, head.start(), n_chars)
        if end is not None:
            done = end
            yield head.start(), end


def _iban_end(text: str, start: int, n_chars: int) -> int | None:
    """Where an IBAN of so many characters ends that begins at `start`, in groups or not; None when there is none."""
    chars, position, n_blanks = "", start, 0
    while len(chars) < n_chars and position < len(text):
        char = text[position]
        if char.isascii() and char.isalnum():
            chars, n_blanks = chars + char.upper(), 0
        elif char in " -\u00a0" and not n_blanks:
            n_blanks = 1
        else:
            return None
        position += 1
    is_whole = len(chars) == n_chars and not text[position : position + 1].isalnum()
    return position if is_whole and is_iban(chars) else None


# In the order in which they are looked for: a card's number must not be taken for a phone's.
NAMED: Mapping[str, Find] = {
    "email": _where(_by(_EMAIL), least=5, has="@"),
    "uuid": _where(_by(_UUID), least=36, has="-"),
    "iban": _where(_ibans, least=15),
    "card": _where(_cards, least=13),
    "mac": _where(_by(_MAC), least=12),
    "ip": _where(_ips, least=2, has=":."),
    "phone": _where(_by(_PHONE), least=8),
    "number": _by(_NUMBER),
}
