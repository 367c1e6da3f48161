"""The quick way to a job's shape, held against marshmallow's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from executors import schema
from executors.errors import JobInvalid

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        [
            "2026-01-31T12:00:00Z",
            "5b0dd9f7-3c42-4e33-9b7f-1e2b44a3d2ac",
            "512m",
            "image",
            "failure",
            "https://example.org",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3)
    ),
    max_leaves=5,
)


def objects_of(shape, **chosen):
    """Some of the schema's fields, in odd case at times, and others; mostly of the right type."""
    right = {
        "Text": st.text(max_size=5),
        "Number": st.integers(-2, 5),
        "Flag": st.booleans(),
        "Environment": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
    }
    fields = {
        name: chosen.get(name, right.get(type(field).__name__, values))
        for name, field in shape.load_fields.items()
    }
    ordinary = st.fixed_dictionaries(
        {}, optional={name: st.none() | right for name, right in fields.items()}
    )
    names = st.sampled_from([*fields, *map(str.upper, fields), "ContinueOnError", "unknown"])
    odd = st.dictionaries(names, values, max_size=2)
    return ordinary | st.builds(lambda one, other: {**one, **other}, ordinary, odd)


steps = st.lists(objects_of(schema._StepShape()) | st.none(), max_size=3) | values
jobs = objects_of(schema._JobShape(), steps=steps)


@settings(deadline=None)
@given(jobs | values)
def test_what_it_makes_is_what_marshmallow_makes(data):
    quick = schema._QUICK.load(data)
    if quick is not None:
        assert quick == schema._SHAPE.load(data)


@settings(deadline=None)
@given(jobs)
def test_it_never_hides_an_error(data):
    try:
        schema._SHAPE.load(data)
    except (ValidationError, JobInvalid):
        assert schema._QUICK.load(data) is None


@pytest.mark.parametrize(
    "data",
    [
        {"name": "job", "steps": [{"id": 1, "image": "alpine", "script": "true"}]},
        {"name": "job", "priority": 1, "metadata": {"A": "b"}, "timeout_seconds": 5, "steps": []},
        {"name": "job", "metadata": None, "steps": None},
        {"name": "job", "timestamp": "2026-01-31T12:00:00Z"},
    ],
)
def test_what_is_ordinary_goes_the_quick_way(data):
    assert schema._QUICK.load(data) == schema._SHAPE.load(data)


def test_what_it_makes_shares_nothing_with_what_it_got():
    metadata = {"A": "b"}
    shaped = schema._QUICK.load({"name": "job", "metadata": metadata})
    assert shaped is not None
    assert shaped["metadata"] is not metadata
    assert schema._QUICK.load({})["metadata"] is not schema._QUICK.load({})["metadata"]
