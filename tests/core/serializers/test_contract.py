"""What every serializer promises: a value comes back as it went, or is refused with a reason."""

import re
from datetime import date, datetime
from functools import partial
from typing import Annotated, Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Tag,
)

from app.core.serializers import Serializer
from tests.core.serializers.codecs import KEY, SERIALIZERS, round_trip
from tests.core.serializers.models import Cat, Computed, Dog, Everything, Tree, everything
from tests.core.serializers.values import CASES, LOST, LOST_IN_JSON, Wide
from tests.template.answers import options

T = TypeVar("T")
serializers = pytest.mark.parametrize("serializer", SERIALIZERS.values(), ids=SERIALIZERS)


@serializers
@pytest.mark.parametrize(("type_", "value"), CASES.values(), ids=CASES)
def test_a_value_comes_back_as_it_went(serializer: Serializer, type_: Any, value: Any) -> None:
    restored = round_trip(serializer, type_, value)
    assert type(restored) is type(value)
    assert written_out(restored) == written_out(value)


def written_out(value: Any) -> str:
    """Everything there is to see in a value, its types included; written apart from the code."""
    if isinstance(value, datetime):
        return f"{value.replace(tzinfo=None, fold=0)!r} {value.utcoffset()}"
    if isinstance(value, dict):
        return f"{type(value)} {sorted(map(written_out, value.items()))}"
    if isinstance(value, set | frozenset):
        return f"{type(value)} {sorted(map(written_out, value))}"
    return re.sub(r"datetime\.timezone\.utc|TzInfo\((0|UTC)\)", "UTC", repr(value))


@serializers
def test_a_computed_property_does_not_keep_a_model_out(serializer: Serializer) -> None:
    value = Computed(width=3)
    assert value.slow == 3
    assert round_trip(serializer, Computed, value) == Computed(width=3)


@serializers
def test_one_dump_is_like_another(serializer: Serializer) -> None:
    """So replicas agree, and an entry may be compared by its bytes."""
    one, other = (serializer.codec(Everything).dumps(everything(), key=KEY) for _ in range(2))
    assert one == other


def test_every_answer_is_tested_here() -> None:
    assert set(SERIALIZERS) == set(options("serializer"))


def test_formats_tell_the_serializers_apart() -> None:
    formats = [serializer.format for serializer in SERIALIZERS.values()]
    assert len(set(formats)) == len(formats)
    assert 0 not in formats  # stored responses


@pytest.mark.parametrize(
    ("type_", "value"), (LOST | LOST_IN_JSON).values(), ids=LOST | LOST_IN_JSON
)
def test_what_json_would_lose_is_refused(type_: Any, value: Any) -> None:
    codec = SERIALIZERS["json"].codec(type_)
    with pytest.raises(ValueError, match=r".") as refused:
        codec.dumps(value, key=KEY)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize(("type_", "value"), LOST.values(), ids=LOST)
def test_what_messagepack_would_lose_is_refused(type_: Any, value: Any) -> None:
    codec = SERIALIZERS["msgpack"].codec(type_)
    with pytest.raises(ValueError, match=r".") as refused:
        codec.dumps(value, key=KEY)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize(("type_", "value"), LOST_IN_JSON.values(), ids=LOST_IN_JSON)
def test_messagepack_keeps_more_than_json(type_: Any, value: Any) -> None:
    assert repr(round_trip(SERIALIZERS["msgpack"], type_, value)) == repr(value)


@pytest.mark.parametrize(
    ("type_", "value"), (LOST | LOST_IN_JSON).values(), ids=LOST | LOST_IN_JSON
)
def test_pickle_keeps_it_all(type_: Any, value: Any) -> None:
    assert repr(round_trip(SERIALIZERS["pickle"], type_, value)) == repr(value)


def test_a_refusal_says_where() -> None:
    tree = Tree(name="a", children=[Tree(name="b"), Wide(name="c")])
    with pytest.raises(
        ValueError, match=r"Tree\.children\[1\] would come back as Tree, not as Wide"
    ):
        SERIALIZERS["json"].codec(Tree).dumps(tree, key=KEY)


WRONG: dict[str, tuple[Any, Any]] = {
    "another type": (int, "not a number"), "a dict for a model": (Tree, {"name": "a"}),
    "one wrong part": (list[int], [1, 2, "x"]), "text for bytes": (bytes, "text"),
    "half a surrogate pair": (list[str], ["\ud800"]), "nothing like it": (Tree, object()),
}  # fmt: skip


@serializers
@pytest.mark.parametrize(("type_", "value"), WRONG.values(), ids=WRONG)
def test_a_value_of_another_type_is_refused(serializer: Serializer, type_: Any, value: Any) -> None:
    if serializer.format == 3 and type_ == list[str]:
        return  # a pickle holds it
    with pytest.raises(ValueError, match=r"."):
        serializer.codec(type_).dumps(value, key=KEY)


class Unknown:
    pass


@serializers
@pytest.mark.parametrize("type_", [Unknown, list[Unknown], "Nowhere"], ids=str)
def test_a_type_that_pydantic_does_not_know_is_refused_when_it_is_declared(
    serializer: Serializer, type_: Any
) -> None:
    with pytest.raises(TypeError, match="cannot be kept in the cache"):
        serializer.codec(type_)


def tagged_by(value: Any) -> str:
    return "cat" if "lives" in value else "dog"


def longer(name: str, *, by: int = 0) -> str:
    return name


@serializers
def test_a_fingerprint_is_the_same_in_every_process(serializer: Serializer) -> None:
    """Nothing of it is a place in memory: here the same type is made twice."""

    def made() -> Any:
        text = Annotated[str, AfterValidator(lambda value: value), AfterValidator(partial(longer))]
        union = Annotated[
            Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")], Discriminator(tagged_by)
        ]
        return dict[text, list[union]]

    one, other = made(), made()
    assert repr(one) != repr(other)
    assert serializer.codec(one).fingerprint == serializer.codec(other).fingerprint


def versions_of_a_model() -> list[Any]:
    class First(BaseModel):
        a: int

    class Second(BaseModel):
        a: int
        b: int = 0

    class Third(BaseModel):
        a: str

    for model in (First, Second, Third):
        model.__name__ = model.__qualname__ = "Model"
    return [First, Second, Third]


@serializers
def test_a_fingerprint_changes_with_the_shape(serializer: Serializer) -> None:
    types = [int, str, list[int], list[str], int | None, date, datetime, *versions_of_a_model()]
    prints = {serializer.codec(type_).fingerprint for type_ in types}
    assert len(prints) == len(types)
    assert {len(one) for one in prints} == {8}


class Holder(BaseModel):
    of: set[int]


def test_a_pickle_is_of_exactly_the_declared_type() -> None:
    """The JSON schema of these is one; the other serializers make the one that is asked for."""
    sets = Holder

    class Holder2(BaseModel):
        of: frozenset[int]

    Holder2.__name__, Holder2.__qualname__ = Holder.__name__, Holder.__qualname__
    pickle = SERIALIZERS["pickle"]
    assert pickle.codec(sets).fingerprint != pickle.codec(Holder2).fingerprint


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.decimals(allow_nan=False) | st.uuids() | st.dates() | st.timedeltas()
    | (st.datetimes() | st.times()).map(lambda value: value.replace(fold=0))
)  # fmt: skip
nests = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.dates(), inner, max_size=4)
    ),
    max_leaves=20,
)


@serializers
@given(value=nests)
def test_whatever_is_kept_comes_back_unchanged(serializer: Serializer, value: Any) -> None:
    """Also where pydantic is told nothing about the type."""
    codec = serializer.codec(Any)
    try:
        payload = codec.dumps(value, key=KEY)
    except ValueError:
        # JSON refuses what it cannot tell apart; so does nobody else, but for numbers too long.
        assert serializer.format == 1
        return
    assert repr(codec.loads(payload, key=KEY)) == repr(value)
