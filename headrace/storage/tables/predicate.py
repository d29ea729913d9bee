"""Parses a `where`, and splits it into terms to push down to a store and a rest to filter in Arrow.

Every condition is in exactly one of the two, so one that cannot be pushed down costs bytes, but never loses rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    BoundEqualTo,
    BoundGreaterThan,
    BoundGreaterThanOrEqual,
    BoundIn,
    BoundIsNull,
    BoundLessThan,
    BoundLessThanOrEqual,
    BoundLiteralPredicate,
    BoundNotEqualTo,
    BoundNotNull,
    BoundPredicate,
    BoundStartsWith,
    LiteralPredicate,
    Not,
    Or,
    SetPredicate,
)
from pyiceberg.expressions.literals import DecimalLiteral, Literal, StringLiteral, TimestampLiteral, UUIDLiteral
from pyiceberg.expressions.visitors import bind, rewrite_not
from pyiceberg.schema import Schema, assign_fresh_schema_ids

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES: dict[type[BooleanExpression], str] = {
    BoundEqualTo: "==",
    BoundNotEqualTo: "!=",
    BoundLessThan: "<",
    BoundLessThanOrEqual: "<=",
    BoundGreaterThan: ">",
    BoundGreaterThanOrEqual: ">=",
    BoundIn: "in",
    BoundIsNull: "is null",
    BoundNotNull: "not null",
    BoundStartsWith: "starts with",
}


@dataclass(frozen=True)
class Term:
    """One comparison of a column: `==`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `is null`, `not null` or `starts with`.

    A time among `values` is in UTC and carries its zone.
    """

    column: str
    comparison: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Split:
    """`pushed_down` is a conjunction of disjunctions, each over one column; `rest` is filtered afterwards."""

    pushed_down: tuple[tuple[Term, ...], ...]
    rest: pc.Expression | None
    columns: tuple[str, ...]
    """Columns that `rest` reads."""


_STRING = re.compile(r"(\blike\s*)?'((?:[^']|'')*)'", re.IGNORECASE)


def parsed(where: str | BooleanExpression) -> BooleanExpression:
    """Parse a condition for pyiceberg. Quoted strings are as in SQL: any text, with quotes doubled.

    pyiceberg's own parser treats a backslash as an escape and rejects line ends, so names with either could not be queried. LIKE
    patterns are left to it.
    """
    return _parsed(where) if isinstance(where, str) else where


@lru_cache(maxsize=256)
def _parsed(where: str) -> BooleanExpression:
    """pyiceberg's parser takes milliseconds; most conditions are asked again and again."""
    from pyiceberg.expressions.parser import parse  # it loads pyparsing

    strings: dict[str, str] = {}

    def held(match: re.Match[str]) -> str:
        if match[1]:
            return match[0]
        name = f"\0{len(strings)}"
        strings[name] = match[2].replace("''", "'")
        return f"'{name}'"

    return _with(parse(_STRING.sub(held, where)), strings)


def _with(expression: Any, strings: Mapping[str, str]) -> BooleanExpression:
    """The expression with the strings put back for the placeholders of `parsed`."""
    match expression:
        case And() | Or():
            return type(expression)(_with(expression.left, strings), _with(expression.right, strings))
        case Not():
            return Not(_with(expression.child, strings))
        case SetPredicate():
            return type(expression)(expression.term, [_text(literal, strings) for literal in expression.literals])
        case LiteralPredicate():
            return type(expression)(expression.term, _text(expression.literal, strings))
    return expression  # type: ignore[no-any-return]


def _text(literal: Literal[Any], strings: Mapping[str, str]) -> Literal[Any]:
    return StringLiteral(strings.get(literal.value, literal.value)) if isinstance(literal, StringLiteral) else literal


def split(where: str | BooleanExpression, columns: pa.Schema, askable: Callable[[Term], bool]) -> Split:
    """Split a condition on `columns`; `askable` says which terms the store can evaluate.

    Raises `ValueError`, as pyiceberg does, for a condition that cannot be parsed or names an unknown column.
    """
    # Only VAST DB splits a condition; the import takes a second.
    from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids, expression_to_pyarrow

    # All nullable: rows older than a column have null in it, even if the catalog now requires it.
    nullable = pa.schema([field.with_nullable(True) for field in columns])
    schema = assign_fresh_schema_ids(_pyarrow_to_schema_without_ids(nullable))
    bound = bind(schema, rewrite_not(parsed(where)), case_sensitive=True)
    alternatives: list[tuple[Term, ...]] = []
    rest: BooleanExpression = AlwaysTrue()
    for condition in _all_of(bound):
        terms = _any_of(condition)
        if terms and len({term.column for term in terms}) == 1 and all(map(askable, terms)):
            alternatives.append(terms)
        else:
            rest = And(rest, condition)
    if isinstance(rest, AlwaysTrue):
        return Split(tuple(alternatives), None, ())
    return Split(tuple(alternatives), expression_to_pyarrow(rest, schema), tuple(dict.fromkeys(_named(rest, schema))))


def _all_of(expression: BooleanExpression) -> Iterator[BooleanExpression]:
    if isinstance(expression, And):
        yield from _all_of(expression.left)
        yield from _all_of(expression.right)
    elif not isinstance(expression, AlwaysTrue):
        yield expression


def _any_of(expression: BooleanExpression) -> tuple[Term, ...]:
    """The terms of a disjunction of comparisons; empty for any other expression."""
    if isinstance(expression, Or):
        left, right = _any_of(expression.left), _any_of(expression.right)
        return left + right if left and right else ()
    name = _NAMES.get(type(expression))
    if name is None or not isinstance(expression, BoundPredicate) or expression.term.ref().accessor.inner is not None:
        return ()
    if isinstance(expression, BoundIn):
        literals = sorted(expression.literals, key=lambda literal: repr(literal.value))
    else:
        literals = [expression.literal] if isinstance(expression, BoundLiteralPredicate) else []
    if any(isinstance(literal, (DecimalLiteral, UUIDLiteral)) for literal in literals):
        return ()
    return (Term(expression.term.ref().field.name, name, tuple(map(_value, literals))),)


def _value(literal: Literal[Any]) -> Any:
    return _EPOCH + timedelta(microseconds=literal.value) if isinstance(literal, TimestampLiteral) else literal.value


def _named(expression: BooleanExpression, schema: Schema) -> Iterator[str]:
    """The top-level columns that an expression reads."""
    if isinstance(expression, (And, Or)):
        yield from _named(expression.left, schema)
        yield from _named(expression.right, schema)
    elif isinstance(expression, BoundPredicate):
        name = schema.find_column_name(expression.term.ref().field.field_id)
        yield str(name).split(".", 1)[0]
