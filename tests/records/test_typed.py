from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from sparselora.records.typed import Section, build, read


@dataclass(kw_only=True)
class Inner(Section):
    count: int
    ratio: float | None


@dataclass(kw_only=True)
class Outer(Section):
    NULLS: ClassVar[frozenset[str]] = frozenset({"why"})

    name: str
    inner: Inner | None
    many: list[Inner]
    sizes: dict[str, int] | None
    why: str | None = None
    later: float | None = None


WHOLE: dict[str, Any] = {
    "name": "x",
    "inner": {"count": 1, "ratio": 0.5},
    "many": [{"count": 2, "ratio": None}],
    "sizes": {"a": 3},
    "why": None,
}


def test_built_is_typed_and_written_as_it_was() -> None:
    made = build(Outer, WHOLE)
    assert made.inner == Inner(count=1, ratio=0.5)
    assert made.many == [Inner(count=2, ratio=None)]
    assert list(made.to_dict().items()) == list(WHOLE.items())
    assert build(Outer, WHOLE | {"later": 2}).to_dict() == WHOLE | {"later": 2}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"other": 1}, "Outer has no other"),
        ({"inner": {"count": 1}}, "Outer.inner: Inner lacks ratio"),
        ({"inner": {"count": 1, "ratio": 0.5, "more": 1}}, "Inner has no more"),
        ({"name": 3}, "Outer.name: 3 is no"),
        ({"many": [{"count": 1.5, "ratio": None}]}, "Inner.count: 1.5 is no"),
        ({"many": [{"count": True, "ratio": None}]}, "Inner.count: True is no"),
        ({"many": None}, "Outer.many: None is no"),
        ({"sizes": {"a": "3"}}, "Outer.sizes: '3' is no"),
    ],
)
def test_a_writer_with_a_wrong_key_or_type_fails(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        build(Outer, WHOLE | changes)


def test_what_is_unknown_or_cannot_be_read_stays_in_the_file() -> None:
    file = WHOLE | {"inner": {"count": "many", "ratio": 1}, "newer": [1]}
    found = read(Outer, file)
    assert found is not None
    assert found.inner is None
    assert found.to_dict() == file


def test_what_is_missing_is_none_where_it_may_be() -> None:
    found = read(Outer, {"name": "x", "many": [{"count": 1}]})
    assert found == Outer(name="x", inner=None, many=[Inner(count=1, ratio=None)], sizes=None)
    assert read(Outer, {"many": []}) is None
    assert read(Outer, [1]) is None
