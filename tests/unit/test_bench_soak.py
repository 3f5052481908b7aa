"""What `soak-api` makes of its looks at a process."""

from itertools import cycle, islice

from pgbastion.bench._soak_watch import (
    LOOKS_A_FLOOR,
    Growth,
    Look,
    Watched,
    grows,
    new_series,
    series_of,
)
from pgbastion.bench.lab.processes import Process

MB = 1_000_000
EVERY_S = 10.0


def watched(rss_bytes: list[int]) -> Watched:
    """Return a process that was seen with so much memory, a look after the other."""
    looks = [
        Look(at_s=number * EVERY_S, rss_bytes=rss, descriptors=1, threads=1, files=1)
        for number, rss in enumerate(rss_bytes)
    ]
    return Watched("n1 daemon", Process(1, 1), looks=looks)


def test_what_a_long_answer_takes_for_a_while_is_no_growth() -> None:
    floor = [100 * MB] * LOOKS_A_FLOOR
    with_answers = [
        *floor,
        *floor[:-2],
        110 * MB,
        120 * MB,
        *floor[1:],
        130 * MB,
        140 * MB,
    ]

    assert watched(with_answers).growth(0) == Growth(bytes_per_h=0, error=0)


def test_a_floor_that_rises_is_growth() -> None:
    # A tenth of a megabyte with each two minutes are three in an hour.
    floors = [100 * MB + n * MB // 10 for n in range(10) for _ in range(LOOKS_A_FLOOR)]

    assert round(watched(floors).growth(0).bytes_per_h / MB, 6) == 3
    assert watched(floors).wrong(0) == ["memory grows"]


def test_only_what_was_seen_after_the_warm_up_counts() -> None:
    rising = [n * MB for n in range(4 * LOOKS_A_FLOOR)]
    flat = [100 * MB] * 4 * LOOKS_A_FLOOR

    found = watched([*rising, *flat]).wrong(len(rising) * EVERY_S)

    assert found == []


def test_a_growth_that_drowns_in_noise_is_not_shown_to_be_small() -> None:
    noisy = islice(cycle([100 * MB, 101 * MB, 100 * MB]), 6)
    floors = [rss for rss in noisy for _ in range(LOOKS_A_FLOOR)]

    assert watched(floors).wrong(0) == ["whether memory grows is not shown"]


def test_two_floors_are_too_few_to_show_anything() -> None:
    flat = [100 * MB] * (3 * LOOKS_A_FLOOR - 1)

    assert watched(flat).wrong(0) == ["whether memory grows is not shown"]


def test_files_that_stay_behind_grow() -> None:
    looks = [
        Look(at_s=n * EVERY_S, rss_bytes=MB, descriptors=1, threads=1, files=n // 9)
        for n in range(4 * LOOKS_A_FLOOR)
    ]

    assert Watched("n1 daemon", Process(1, 1), looks=looks).wrong(0) == ["files grow"]


def test_what_never_falls_back_to_what_was_usual_grows() -> None:
    assert grows([20, 21, 20, 22, 21, 22, 23, 24, 23])


def test_what_comes_and_goes_does_not_grow() -> None:
    assert not grows([12, 60, 12, 70, 12, 60, 12, 90, 12])


def test_a_series_with_a_label_that_was_never_there_is_new() -> None:
    scrapes = [series_of(f'up 1\nasked{{by="{n}"}} {n}\n') for n in range(6)]

    assert new_series(scrapes) == {'asked{by="4"}', 'asked{by="5"}'}


def test_a_series_that_comes_back_is_not_new() -> None:
    scrapes = [series_of(f'asked{{by="{n % 4}"}} {n}\n') for n in range(6)]

    assert new_series(scrapes) == frozenset()
