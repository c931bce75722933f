"""What a plain scalar means, by the core schema of YAML 1.2.2 (section 10.3.2): no yes and no, no 012, no 1:30, no dates."""

from __future__ import annotations

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE"))
_FALSE = frozenset(("false", "False", "FALSE"))
_INFINITE = frozenset((".inf", ".Inf", ".INF"))
_NAN = frozenset((".nan", ".NaN", ".NAN"))
_DIGITS = frozenset("0123456789")


def is_null(text: str) -> bool:
    return text in _NULL


def resolve(text: str) -> bool | int | float | str | None:
    """The value of a plain scalar. A number too long to be meant as one stays a text."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    whole = integer(text)
    if whole is not None:
        return whole
    return _float(text)


def integer(text: str) -> int | None:
    """`[-+]?[0-9]+`, `0o[0-7]+` or `0x[0-9a-fA-F]+`, of at most 40 characters."""
    if not text.isascii() or len(text) > 40:
        return None
    for prefix, base, digits in (("0o", 8, "01234567"), ("0x", 16, "0123456789abcdefABCDEF")):
        if text.startswith(prefix):
            return int(text[2:], base) if text[2:] and not text[2:].strip(digits) else None
    return int(text) if text[text[:1] in ("-", "+") :].isdigit() else None


def _float(text: str) -> float | str:
    """`[-+]?(\\.[0-9]+|[0-9]+(\\.[0-9]*)?)([eE][-+]?[0-9]+)?`, or an infinity, or not a number."""
    bare = text[1:] if text[:1] in ("-", "+") else text
    if bare in _INFINITE:
        return float("-inf") if text.startswith("-") else float("inf")
    if text in _NAN:
        return float("nan")
    mantissa, exponent_sign, exponent = bare.replace("E", "e").partition("e")
    if exponent_sign and not _all_digits(exponent[exponent[:1] in ("-", "+") :]):
        return text
    whole, _, part = mantissa.partition(".")
    if not (_all_digits(whole + part)) or (not whole and not part):
        return text
    return float(text) if len(text) <= 40 else text


def _all_digits(text: str) -> bool:
    return bool(text) and _DIGITS.issuperset(text)
