"""What the codec lets through, what it refuses, and how it names what it refuses."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import IntEnum, StrEnum
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt, MaxLen, MinLen
from attrs import asdict, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import MultiDict

from dispatcher.fields import Instant, Json, JsonObject, MaxBytes, Rule, Tags, instant
from web.codec import Fault, Invalid, Malformed, Text, decode, decode_query, encode, rfc3339, structure

unhurried = settings(deadline=None)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@frozen(kw_only=True)
class Inner:
    percent: Annotated[float, Ge(0), Le(100)]
    note: Annotated[str, MinLen(1), MaxLen(3)] | None = None


@frozen(kw_only=True)
class Everything:
    name: Annotated[str, Rule(str.strip)] = ""
    count: Annotated[int, Gt(0), Lt(10)] = 1
    share: float = 0
    flag: bool = False
    colour: Colour = Colour.RED
    mode: Literal["all", "any"] = "all"
    tags: Tags = ()
    maybe: int | None = 7
    at: Instant = 0
    inner: Inner | None = None
    inners: Annotated[tuple[Inner, ...], MaxLen(60)] = ()
    message: Annotated[str, MaxBytes(4)] = ""
    data: Json = None
    extra: JsonObject = field(factory=dict)
    secret: str = field(default="", metadata={"internal": True})


@frozen(kw_only=True)
class Span:
    owner: str = field(metadata={"internal": True})
    start: int
    end: int = 10

    def faults(self) -> Iterable[tuple[str, str]]:
        if self.start > self.end:
            yield "start", "must not be after end"


@frozen(kw_only=True)
class Stretch:
    from_: Instant
    class_: int = 0


def faults_of(call, *args, **known):
    with pytest.raises(Invalid) as caught:
        call(*args, **known)
    return [(fault.field, fault.reason) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"name": " a "}, Everything(name="a")),
        ({"count": 9}, Everything(count=9)),
        ({"share": 2}, Everything(share=2)),
        ({"share": 2.5}, Everything(share=2.5)),
        ({"flag": True}, Everything(flag=True)),
        ({"colour": "blue", "mode": "any"}, Everything(colour=Colour.BLUE, mode="any")),
        ({"tags": ["b", "a"]}, Everything(tags=("b", "a"))),
        ({"maybe": None}, Everything(maybe=None)),
        ({"at": "1970-01-01T00:00:01Z"}, Everything(at=1000)),
        ({"inner": {"percent": 100}}, Everything(inner=Inner(percent=100))),
        ({"inners": [{"percent": 0, "note": None}]}, Everything(inners=(Inner(percent=0),))),
        ({"message": "éé"}, Everything(message="éé")),
        ({"data": [None, {"a": 1.5}]}, Everything(data=[None, {"a": 1.5}])),
        ({"extra": {"a": 2**64 - 1, "b": -(2**63)}}, Everything(extra={"a": 2**64 - 1, "b": -(2**63)})),
    ],
)
def test_a_body_becomes_an_object(body, expected):
    """Every type has its JSON form, and rules may leave a normal form."""
    assert decode(encode(body), Everything) == expected


def test_an_empty_body_counts_as_an_empty_object():
    """But only where no field is required of the body."""
    assert decode(b"", Everything) == Everything()
    assert decode(b"", Span, owner="me", start=1) == Span(owner="me", start=1)
    with pytest.raises(Malformed, match="empty"):
        decode(b"", Span, owner="me")


@pytest.mark.parametrize(
    ("body", "path", "reason"),
    [
        ({"name": 5}, "name", "must be a string, not an integer"),
        ({"name": None}, "name", "must be a string, not null"),
        ({"name": ["a"]}, "name", "must be a string, not a list"),
        ({"count": True}, "count", "must be an integer, not a boolean"),
        ({"count": 1.0}, "count", "must be an integer, not a number"),
        ({"count": "1"}, "count", "must be an integer, not a string"),
        ({"count": 0}, "count", "must be greater than 0, is 0"),
        ({"count": 10}, "count", "must be less than 10, is 10"),
        ({"share": False}, "share", "must be a number, not a boolean"),
        ({"flag": 1}, "flag", "must be true or false, not an integer"),
        ({"flag": "true"}, "flag", "must be true or false, not a string"),
        ({"colour": "RED"}, "colour", "must be one of red, blue"),
        ({"colour": ["red"]}, "colour", "must be one of red, blue"),
        ({"mode": "one"}, "mode", "must be one of all, any"),
        ({"tags": "ab"}, "tags", "must be a list, not a string"),
        ({"tags": {"a": 1}}, "tags", "must be a list, not an object"),
        ({"tags": ["a", ""]}, "tags[1]", "must be at least 1 characters, is 0"),
        ({"tags": ["a", "a"]}, "tags", "must not contain 'a' twice"),
        ({"tags": ["a"] * 51}, "tags", "must be at most 50 items, is 51"),
        ({"maybe": "1"}, "maybe", "must be an integer, not a string"),
        ({"at": 5}, "at", "must be a string, not an integer"),
        ({"at": "1970-01-01T00:00:00"}, "at", "must be an RFC 3339 time with an offset, such as 2026-01-01T00:00:00Z"),
        ({"inner": []}, "inner", "must be an object, not a list"),
        ({"inner": {}}, "inner.percent", "is required"),
        ({"inner": {"percent": 101}}, "inner.percent", "must be at most 100, is 101"),
        ({"inners": [{"percent": 1}, {"percent": 1, "note": "long"}]}, "inners[1].note", None),
        ({"message": "ééé"}, "message", "must be at most 4 bytes, is 6"),
        ({"extra": []}, "extra", "must be an object, not a list"),
        ({"extra": {"a": "x" * 65_536}}, "extra", "must be at most 65536 bytes, is 65544"),
        ({"coulor": 1}, "coulor", "unknown field, did you mean 'colour'?"),
        ({"zzz": 1}, "zzz", "unknown field"),
        ({"secret": "x"}, "secret", "unknown field"),
        ({"z" * 1000: 1}, "z" * 100, "unknown field"),
        ([], "body", "must be an object, not a list"),
        (None, "body", "must be an object, not null"),
    ],
)
def test_a_breach_is_named(body, path, reason):
    """The path leads to the part that is wrong, and nothing is coerced to make it right."""
    (fault,) = faults_of(decode, encode(body), Everything)
    assert fault[0] == path
    assert reason in (fault[1], None)


def test_all_faults_are_named_at_once():
    """In the order of the fields, the unknown ones last, whatever their depth."""
    body = {"x": 1, "tags": [1, "a", 2], "name": 1, "inners": [{}, {"percent": 1, "note": "long"}]}
    assert [path for path, _ in faults_of(decode, encode(body), Everything)] == [
        "name",
        "tags[0]",
        "tags[2]",
        "inners[0].percent",
        "inners[1].note",
        "x",
    ]


def test_no_more_than_fifty_faults_are_named():
    """The longest answer is bounded, be the body ever so wrong."""
    assert len(faults_of(decode, encode({"inners": [{}] * 60}), Everything)) == 50
    assert len(faults_of(decode, encode({f"x{i}": 1 for i in range(60)}), Everything)) == 50


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{} {}",
        b'{"name":"\xff"}',
        b'{"name":"\\ud800"}',
        b'{"data":NaN}',
        b'{"data":1e999}',
        b"\xef\xbb\xbf{}",
        b"{'a':1}",
        b'{"data":' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"data":' + b"[" * 1000 + b"1" * 20 + b"]" * 1000 + b"}",
    ],
)
def test_what_is_not_json_is_malformed(body):
    """Bad text, bad numbers and bottomless nesting are told apart from wrong values."""
    with pytest.raises(Malformed):
        decode(body, Span, owner="me")


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "1" * 100])
def test_an_integer_beyond_64_bits_is_refused(number):
    """It would come back as a float, and so as another number."""
    path, reason = faults_of(decode, b'{"data":{"a":[%s]}}' % number.encode(), Everything)[0]
    assert path == "data"
    assert "integers beyond 64 bits" in reason
    assert faults_of(decode, b'{"maybe":1,"count":%s}' % number.encode(), Everything)[0][0] == "count"


@pytest.mark.parametrize(
    "value", ['"18446744073709551616"', "1e300", "18446744073709551616.0", "0.1234567890123456789"]
)
def test_what_only_looks_like_a_long_integer_is_kept(value):
    """Strings and floats may have as many digits as they like."""
    assert decode(b'{"data":%s}' % value.encode(), Everything).data == json.loads(value)


def test_json_is_never_deeper_than_an_answer_can_carry():
    """246 levels may be written into an answer, one more may not."""
    deep = b"[" * 246 + b"]" * 246
    answer = {"data": {"tasks": [{"next": [{"result": decode(b'{"data":%s}' % deep, Everything).data}]}]}}
    assert deep in encode(answer)
    assert faults_of(decode, b'{"data":[%s]}' % deep, Everything)[0][0] == "data"


def test_known_fields_come_from_the_caller_alone():
    """They are taken as they are, and a body that has them is refused."""
    assert decode(b'{"start":1}', Span, owner="me").owner == "me"
    assert decode(b"{}", Everything, at=-1, secret="s").at == -1
    assert faults_of(decode, b'{"owner":"you","start":"1"}', Span, owner="me") == [
        ("owner", "unknown field"),
        ("start", "must be an integer, not a string"),
    ]


def test_fields_are_checked_against_each_other_once_each_is_right():
    """The path of such a fault leads to the object that is at odds with itself."""
    body = {"start": 11}
    assert faults_of(decode, encode(body), Span, owner="me") == [("start", "must not be after end")]
    assert [path for path, _ in faults_of(decode, encode({"start": 11, "end": "x"}), Span, owner="me")] == ["end"]

    @frozen
    class Outer:
        span: Span

    @frozen(kw_only=True)
    class Open(Span):
        owner: str = ""

    @frozen
    class Many:
        spans: tuple[Open, ...]

    assert faults_of(decode, encode({"spans": [{"start": 1}, body]}), Many) == [
        ("spans[1].start", "must not be after end")
    ]


def test_a_name_that_python_keeps_for_itself_bears_no_underscore_outside():
    made = decode(b'{"from":"1970-01-01T00:00:01Z","class":2}', Stretch)
    assert (made.from_, made.class_) == (1000, 2)
    assert faults_of(decode, b"{}", Stretch) == [("from", "is required")]
    assert [name for name, _ in faults_of(decode, b'{"from":1,"class":"x"}', Stretch)] == ["from", "class"]
    wrong = faults_of(decode, b'{"from":"1970-01-01T00:00:01Z","class_":2}', Stretch)
    assert wrong == [("class_", "unknown field, did you mean 'class'?")]


def test_a_required_internal_field_that_nobody_gives_is_a_bug():
    """A mistake of ours is not blamed on the request."""
    with pytest.raises(TypeError, match="owner"):
        decode(b'{"start":1}', Span)


def test_a_bug_in_a_rule_is_not_a_fault():
    """Only ValueError says that the value is wrong."""

    @frozen
    class Broken:
        a: Annotated[str, Rule({}.__getitem__)]

    with pytest.raises(KeyError):
        decode(b'{"a":"b"}', Broken)


@pytest.mark.parametrize(
    "type_",
    [
        bytes,
        IntEnum,
        list[str],
        dict[str, int],
        Mapping[str, int],
        int | str | None,
        Annotated[int, Interval(ge=1)],
        set,
    ],
)
def test_a_type_without_strict_meaning_cannot_be_used(type_):
    """cattrs' lenient hooks stay out of reach, and no rule goes unapplied."""

    @frozen
    class Loose:
        a: type_

    with pytest.raises(TypeError):
        decode(b'{"a":1}', Loose)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, Everything()),
        ({"name": "5"}, Everything(name="5")),
        ({"name": "null", "maybe": "-3"}, Everything(name="null", maybe=-3)),
        ({"share": "2.50", "count": "3"}, Everything(share=2.5, count=3)),
        ({"flag": "true"}, Everything(flag=True)),
        ({"colour": "blue", "mode": "any"}, Everything(colour=Colour.BLUE, mode="any")),
        ({"tags": "b,a"}, Everything(tags=("b", "a"))),
        ({"at": "1970-01-01T00:00:01Z"}, Everything(at=1000)),
        ({"data": "1"}, Everything(data="1")),
    ],
)
def test_a_query_becomes_an_object(query, expected):
    """The types say how the text of a parameter is read, and plain strings are what remains."""
    made = decode_query(MultiDict(query), Everything)
    assert made == expected
    assert all(type(value) is not Text for value in asdict(made).values())


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "+1", "01", "1_000", "1.0", "1e2", "0x1", "٣", "nan", "inf", "true", "1" * 21]
)
def test_an_integer_in_a_query_is_plain_decimal(text):
    """Python's int() would take half of these."""
    ((path, reason),) = faults_of(decode_query, MultiDict(maybe=text), Everything)
    assert (path, reason.partition(",")[0]) == ("maybe", "must be an integer")


@pytest.mark.parametrize("text", ["", "nan", "inf", "1e2", ".5", "5.", "1,5", "-", "1_0.0", "false", "9" * 400])
def test_a_number_in_a_query_is_plain_decimal(text):
    """Python's float() would take half of these."""
    ((path, reason),) = faults_of(decode_query, MultiDict(share=text), Everything)
    assert (path, reason.partition(",")[0]) == ("share", "must be a number")


@pytest.mark.parametrize("text", ["", "1", "True", "yes", "false "])
def test_a_boolean_in_a_query_is_true_or_false(text):
    """There is one way to write each."""
    ((path, reason),) = faults_of(decode_query, MultiDict(flag=text), Everything)
    assert (path, reason.partition(",")[0]) == ("flag", "must be true or false")


def test_query_parameters_are_known_and_given_once():
    """Repeated ones are named first, then what is wrong with the values."""
    query = MultiDict([("maybe", "1"), ("maybe", "2"), ("nmae", "x"), ("tags", "a,,b"), ("secret", "x"), ("at", "1")])
    assert [path for path, _ in faults_of(decode_query, query, Everything, at=1)] == [
        "maybe",
        "at",
        "tags[1]",
        "nmae",
        "secret",
    ]


@pytest.mark.parametrize("text", ["\udcff", "a\ufffdb"])
def test_what_was_not_utf8_in_a_query_is_refused(text):
    """A decoded URL has these in place of the bytes it could not read."""
    assert faults_of(decode_query, MultiDict(name=text), Everything) == [("name", "must be valid UTF-8")]


def test_a_fault_can_always_be_written_out():
    """Even if the name of the parameter is not UTF-8."""
    assert encode(faults_of(decode_query, MultiDict({"\udcff": "1"}), Everything)) == b'[["?","unknown field"]]'


def test_a_parsed_value_may_mix_typed_values_and_text():
    """So a file and an environment can be read together; TOML's nan is no number."""
    assert structure({"count": Text("3"), "share": 2}, Everything) == Everything(count=3, share=2)
    assert faults_of(structure, {"share": float("nan")}, Everything) == [("share", "must be a finite number")]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
names = st.sampled_from(["name", "count", "share", "flag", "colour", "tags", "maybe", "at", "inner", "inners", "data"])


@unhurried
@given(st.binary() | st.builds(lambda text: text.encode(), st.text(alphabet='{}[]":,0123456789eE.-truefalsnx')))
def test_no_bytes_surprise_the_decoder(body):
    """Whatever comes in, it is an object, malformed or invalid."""
    with suppress(Malformed, Invalid):
        assert isinstance(decode(body, Everything), Everything)


@unhurried
@given(st.dictionaries(names, json_values) | json_values)
def test_no_json_surprises_the_decoder(value):
    """An object that was let through can be written out again."""
    try:
        made = decode(json.dumps(value).encode("utf-8", "replace"), Everything)
    except (Malformed, Invalid):
        return
    encode(asdict(made))


@unhurried
@given(st.lists(st.tuples(names | st.text(), st.text() | st.integers().map(str)), max_size=5))
def test_no_query_surprises_the_decoder(pairs):
    """Whatever the parameters, the result is an object or invalid."""
    with suppress(Invalid):
        assert isinstance(decode_query(MultiDict(pairs), Everything), Everything)


@unhurried
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(-(2**63), 2**64 - 1) | st.floats(-1e9, 1e9)))
def test_free_json_comes_back_as_it_was(extra):
    """Nothing in between reorders or rounds it."""
    assert decode(encode({"extra": extra}), Everything).extra == extra


@unhurried
@given(st.integers(0, 253_402_300_799_999))
def test_a_time_survives_being_written(ms):
    """What rfc3339 writes, the field type reads."""
    assert instant(rfc3339(ms)) == ms


def test_a_time_has_milliseconds_and_z():
    """Always the same width, so that text sorts as time does."""
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_767_225_600_007) == "2026-01-01T00:00:00.007Z"


def test_encode_writes_compact_json():
    """Enumerations by their value."""
    assert encode({"a": [1, None, Colour.RED]}) == b'{"a":[1,null,"red"]}'


def test_the_message_of_a_fault_reads_alone():
    """For logs and for those who do not look at `faults`."""
    assert str(Invalid([Fault("a", "is required"), Fault("b", "unknown field")])) == "a: is required; b: unknown field"
