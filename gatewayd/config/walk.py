"""Every mistake in the tree at once. msgspec stops at its first, so the inspected types are walked here.

A value that is wrong is reported and left out, and its neighbors are still looked at. A value that needed what was
left out is left out too: what remains converts, and the checks that look at two keys at once can be made of it.
No value is put into a problem but numbers and misspelled choices: it might be a secret in the wrong place.
"""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect as mi

from gatewayd.config.describe import Path, allowed, bare, literal, type_name, variants


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A mistake, before its line is known."""

    path: Path
    problem: str
    allowed: str = ""
    is_warning: bool = False


Found = list[Finding]
BAD: Final = object()  # stands for a value that is left out


def clean(info: mi.Type, value: Any, path: Path, found: Found) -> Any:
    """The value without what is wrong in it, or `BAD`; what is wrong is appended to `found`."""
    kind = bare(info)
    if isinstance(kind, mi.StructType):
        return _struct(kind, value, path, found) if _is_table(value, path, found) else BAD
    if isinstance(kind, mi.UnionType):
        return _choose(kind, value, path, found) if _is_table(value, path, found) else BAD
    if isinstance(kind, mi.DictType):
        return _dict(kind, value, path, found) if _is_table(value, path, found) else BAD
    if isinstance(kind, mi.ListType):
        return _list(kind, value, path, found)
    return value if _is_scalar(kind, value, path, found) else BAD


def _is_table(value: Any, path: Path, found: Found) -> bool:
    if isinstance(value, Mapping):
        return True
    found.append(Finding(path=path, problem=f"is {_is_a(value)}, must be a table"))
    return False


def _struct(kind: mi.StructType, value: Mapping[str, Any], path: Path, found: Found) -> Any:
    known = {field.encode_name: field for field in kind.fields}
    names = [*known, kind.tag_field] if kind.tag_field else list(known)
    for name in value:
        if name not in names:
            found.append(_unknown(name, names, path))
    kept: dict[str, Any] = {kind.tag_field: kind.tag} if kind.tag_field else {}
    whole = True
    for name, field in known.items():
        if name not in value:
            if field.required:
                found.append(Finding(path=(*path, name), problem="is missing", allowed=_wanted(field.type)))
                whole = False
            continue
        kept[name] = clean(field.type, value[name], (*path, name), found)
        if kept[name] is BAD:
            del kept[name]
            whole = whole and not field.required
    return kept if whole else BAD


def _choose(kind: mi.UnionType, value: Mapping[str, Any], path: Path, found: Found) -> Any:
    """A tagged union: its tag says which struct the table is."""
    choices = variants(kind)
    tag_field = next(iter(choices.values())).tag_field or "type"
    tag = value.get(tag_field)
    if isinstance(tag, str) and tag in choices:
        return _struct(choices[tag], value, path, found)
    said = "is missing" if tag is None else f"{literal(tag) if isinstance(tag, str) else 'this'} is not known"
    names = " or ".join(literal(name) for name in choices)
    found.append(Finding(path=(*path, tag_field), problem=said, allowed=names))
    return BAD


def _dict(kind: mi.DictType, value: Mapping[str, Any], path: Path, found: Found) -> Any:
    if problem := _count_problem(kind, len(value)):
        found.append(Finding(path=path, problem=problem, allowed=allowed(kind)))
        return BAD
    kept = {name: clean(kind.value_type, item, (*path, name), found) for name, item in value.items()}
    return {name: item for name, item in kept.items() if item is not BAD}


def _list(kind: mi.ListType, value: Any, path: Path, found: Found) -> Any:
    if not isinstance(value, list):
        found.append(Finding(path=path, problem=f"is {_is_a(value)}, must be a {type_name(kind)}"))
        return BAD
    if problem := _count_problem(kind, len(value)):
        found.append(Finding(path=path, problem=problem, allowed=allowed(kind)))
        return BAD
    kept = [clean(kind.item_type, item, (*path, index), found) for index, item in enumerate(value)]
    return BAD if any(item is BAD for item in kept) else kept


def _count_problem(kind: mi.ListType | mi.DictType, n: int) -> str:
    is_fine = (kind.min_length or 0) <= n <= (n if kind.max_length is None else kind.max_length)
    return "" if is_fine else f"has {n} items"


def _is_scalar(kind: mi.Type, value: Any, path: Path, found: Found) -> bool:
    problem = _type_problem(kind, value) or _value_problem(kind, value)
    if problem:
        found.append(Finding(path=path, problem=problem, allowed=allowed(kind)))
    return not problem


def _type_problem(kind: mi.Type, value: Any) -> str:
    if isinstance(kind, mi.AnyType):
        return ""
    if isinstance(kind, mi.BoolType):
        fits = isinstance(value, bool)
    elif isinstance(kind, mi.IntType):
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(kind, mi.FloatType):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif isinstance(kind, mi.StrType):
        fits = isinstance(value, str)
    else:
        fits = not isinstance(kind, mi.LiteralType) or type(value) in {type(each) for each in kind.values}
    return "" if fits else f"is {_is_a(value)}, must be {_a(type_name(kind))}"


def _value_problem(kind: mi.Type, value: Any) -> str:
    if isinstance(kind, mi.LiteralType) and value not in kind.values:
        return f"{literal(value)} is not one of its values{_did_you_mean(str(value), [str(v) for v in kind.values])}"
    if isinstance(kind, mi.IntType | mi.FloatType):
        return _number_problem(kind, value)
    if isinstance(kind, mi.StrType):
        too_short = len(value) < (kind.min_length or 0)
        too_long = kind.max_length is not None and len(value) > kind.max_length
        if too_short or too_long or (kind.pattern and not re.search(kind.pattern, value)):
            return "is empty" if not value else "is too long" if too_long else "does not have the form it must have"
    return ""


def _number_problem(kind: mi.IntType | mi.FloatType, value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number"
    if (kind.ge is not None and value < kind.ge) or (kind.gt is not None and value <= kind.gt):
        return f"{value} is too small"
    if (kind.le is not None and value > kind.le) or (kind.lt is not None and value >= kind.lt):
        return f"{value} is too large"
    return ""


def _unknown(name: str, names: list[str], path: Path) -> Finding:
    problem = f"is not a known key{_did_you_mean(name, names)}"
    return Finding(path=(*path, name), problem=problem, allowed=", ".join(sorted(names)))


def _did_you_mean(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def _wanted(info: mi.Type) -> str:
    said = allowed(info)
    return f"{_a(type_name(info))}, {said}" if said else _a(type_name(info))


def _a(name: str) -> str:
    if name in ("text", "true or false", "any value"):
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _is_a(value: Any) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")
