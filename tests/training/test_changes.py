import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import pytest

from training.changes import parse_changes, with_changes


@dataclass(frozen=True, kw_only=True)
class Inner:
    low: int = 1
    high: int = 2
    name: str | None = None
    rates: tuple[float, ...] = ()
    size: tuple[int, int] = (4, 8)

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low is {self.low}; legal: up to high ({self.high})")


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = Inner()
    mode: Literal["fast", "slow"] = "fast"
    flag: bool = False
    rate: float = 0.5
    weights: dict[str, float] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("mode=slow", Outer(mode="slow")),
        ("flag=true", Outer(flag=True)),
        ("rate=1e-3", Outer(rate=1e-3)),
        ("inner.high=7", Outer(inner=Inner(high=7))),
        ("inner.name=a=b", Outer(inner=Inner(name="a=b"))),
        ("inner.name=none", Outer()),
        ("inner.rates=1,0.5", Outer(inner=Inner(rates=(1.0, 0.5)))),
        ("inner.rates=[0.5]", Outer(inner=Inner(rates=(0.5,)))),
        ("inner.rates=", Outer()),
        ("inner.size=[3, 5]", Outer(inner=Inner(size=(3, 5)))),
        ('weights={"colour": 1.5}', Outer(weights={"colour": 1.5})),
    ],
)
def test_a_value_is_read_by_its_fields_type(setting, expected):
    assert with_changes(Outer(), parse_changes([setting])) == expected


def test_fields_that_depend_on_each_other_change_at_once():
    changed = with_changes(Outer(), parse_changes(["inner.low=5", "inner.high=9"]))
    assert dataclasses.astuple(changed.inner)[:2] == (5, 9)
    with pytest.raises(ValueError, match=r"low is 5; legal: up to high \(2\)"):
        with_changes(Outer(), parse_changes(["inner.low=5"]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("mode=medium", "mode is 'medium'; legal: fast, slow"),
        ("flag=1", "flag is '1'; legal: true, false"),
        ("rate=high", "rate is 'high'; legal: a number"),
        ("rate=nan", "rate is 'nan'; legal: a number"),
        ("inner.low=1.5", "inner.low is '1.5'; legal: a whole number"),
        ("inner.size=1,2,3", "inner.size is '1,2,3'; legal: 2 values"),
        ("weights=3", "weights is '3'; legal: a JSON object"),
        ("inner.lwo=1", "no setting 'inner.lwo'; similar: inner.low"),
        ("high=1", "no setting 'high'; similar: inner.high"),
        ("inner=1", "no setting 'inner'; similar: inner.low, inner.high"),
        ("xyz=1", "no setting 'xyz'; legal: mode, flag, rate, weights, inner"),
        ("steps", "--set is 'steps'; legal: KEY=VALUE"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_legal(setting, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        with_changes(Outer(), parse_changes([setting]))
