"""Sizes and durations with units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbastion.config.units import (
    DURATION_MS_MAX,
    SIZE_BYTES_MAX,
    parse_duration_ms,
    parse_size_bytes,
    render_duration,
    render_size,
)


@given(st.integers(0, DURATION_MS_MAX))
def test_a_rendered_duration_is_read_as_itself(duration_ms: int) -> None:
    assert parse_duration_ms(render_duration(duration_ms)) == duration_ms


@given(st.integers(0, SIZE_BYTES_MAX))
def test_a_rendered_size_is_read_as_itself(size_bytes: int) -> None:
    assert parse_size_bytes(render_size(size_bytes)) == size_bytes


@given(st.text(max_size=20))
def test_any_text_is_a_duration_within_bounds_or_refused(text: str) -> None:
    try:
        duration_ms = parse_duration_ms(text)
    except ValueError:
        return
    assert 0 <= duration_ms <= DURATION_MS_MAX


@given(st.integers(0, 300), st.integers(0, 59), st.integers(0, 59))
def test_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s"

    assert parse_duration_ms(text) == ((hours * 60 + minutes) * 60 + seconds) * 1_000


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("250ms", 250),
        ("1.5s", 1_500),
        ("1m30s", 90_000),
        ("2min", 120_000),
        ("0s", 0),
        (" 5s ", 5_000),
        ("0.001s", 1),
    ],
)
def test_durations_are_read(text: str, duration_ms: int) -> None:
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8kB", 8_192),
        ("1MiB", 1 << 20),
        ("16MB", 16 << 20),
        ("1.5GB", 3 << 29),
        ("0B", 0),
    ],
)
def test_sizes_are_read_in_powers_of_1024(text: str, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "-5s",
        "5 s",
        "s",
        "5x",
        "1s1s",
        "1ms1s",
        "0.1ms",
        "1e3s",
        "\N{ARABIC-INDIC DIGIT FIVE}s",
        "400d",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|unit|fine|longer"):
        parse_duration_ms(text)


@pytest.mark.parametrize("text", ["", "1048576", "1mb", "1 MB", "0.3B", "2000TB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|unit|fine|larger"):
        parse_size_bytes(text)
