"""Filters as expressions that Milvus evaluates, exactly as ``sightline.filters`` would.

Negations are pushed down to the conditions, so that an expression never negates a comparison that has no value for a
row. What the terms of a row cannot answer (see ``sightline.milvus.terms``) is named by ``unsure``: whoever asks
evaluates the filter for those rows and adds them by number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sightline.filters import Clause, Filter, Group, OneOf, Within
from sightline.milvus.terms import CUT, number_key, number_term, odd_term, value_term

EVERY = "row >= 0"
NONE = "row < 0"
_EXACT = float(2**53)
_SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_OPPOSITE = {"gt": "<=", "gte": "<", "lt": ">=", "lte": ">"}


def expression_of(where: Filter) -> str:
    """The filter as an expression, right for every row without one of the terms that ``unsure`` names."""
    return _said(where.clause, negated=False)


def unsure(where: Filter) -> list[str]:
    """The terms of rows for which the expression may be wrong."""
    return [CUT, *(odd_term(key) for key in sorted(set(_ranged(where.clause))))]


def has_any(terms: Sequence[str]) -> str:
    """Rows with one of these terms."""
    if not terms:
        return NONE
    if len(terms) == 1:
        return f'array_contains(terms, "{terms[0]}")'
    listed = ", ".join(f'"{term}"' for term in terms)
    return f"array_contains_any(terms, [{listed}])"


def one_of(field: str, numbers: Iterable[int]) -> str:
    """Rows whose whole number at a field is one of these."""
    listed = ", ".join(str(int(number)) for number in numbers)
    return f"{field} in [{listed}]" if listed else NONE


def _said(clause: Clause, *, negated: bool) -> str:
    if isinstance(clause, OneOf):
        terms = sorted({value_term(clause.key, value) for value in clause.values if value == value})
        if not terms:
            return EVERY if negated else NONE
        return f"not {has_any(terms)}" if negated else has_any(terms)
    if isinstance(clause, Within):
        return _range(clause, negated=negated)
    return _group(clause, negated=negated)


def _group(group: Group, *, negated: bool) -> str:
    """not (A and (B or C) and not D) = not A or (not B and not C) or D."""
    parts = [_said(part, negated=negated) for part in group.must]
    parts += [_said(part, negated=not negated) for part in group.must_not]
    if group.should:
        parts.append(_joined([_said(part, negated=negated) for part in group.should], "and" if negated else "or"))
    return _joined(parts, "or" if negated else "and") if parts else (NONE if negated else EVERY)


def _joined(parts: list[str], word: str) -> str:
    return parts[0] if len(parts) == 1 else f" {word} ".join(f"({part})" for part in parts)


def _range(clause: Within, *, negated: bool) -> str:
    """Numbers are floats of at most 2^53; a bound beyond holds for all of them or for none."""
    number, has = f'numbers["{number_key(clause.key)}"]', has_any([number_term(clause.key)])
    tests: list[str] = []
    for name, bound in clause.bounds:
        if bound != bound:
            return EVERY if negated else NONE
        if -_EXACT <= bound <= _EXACT:
            tests.append(f"{number} {(_OPPOSITE if negated else _SIGNS)[name]} {float(bound)!r}")
        elif (bound > 0) == (name in ("gt", "gte")):
            return EVERY if negated else NONE
    if negated:
        return _joined([f"not {has}", *tests], "or")
    return _joined([has, *tests], "and")


def _ranged(clause: Clause) -> Iterable[str]:
    """The keys that are compared with bounds."""
    if isinstance(clause, Within):
        yield clause.key
    elif isinstance(clause, Group):
        for part in (*clause.must, *clause.should, *clause.must_not):
            yield from _ranged(part)
