"""What `soak-api` makes of its looks at a process."""

from pgbastion.bench._soak_watch import LOOKS_A_FLOOR, Look, Watched, grows
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

    assert watched(with_answers).growth_bytes_per_h(0) == 0


def test_a_floor_that_rises_is_growth() -> None:
    # A tenth of a megabyte with each two minutes are three in an hour.
    floors = [100 * MB + n * MB // 10 for n in range(10) for _ in range(LOOKS_A_FLOOR)]

    assert round(watched(floors).growth_bytes_per_h(0) / MB, 6) == 3


def test_only_what_was_seen_after_the_warm_up_counts() -> None:
    rising = [n * MB for n in range(4 * LOOKS_A_FLOOR)]
    flat = [100 * MB] * 4 * LOOKS_A_FLOOR

    found = watched([*rising, *flat]).growth_bytes_per_h(len(rising) * EVERY_S)

    assert found == 0


def test_what_never_falls_back_to_what_was_usual_grows() -> None:
    assert grows([20, 21, 20, 22, 21, 22, 23, 24, 23])


def test_what_comes_and_goes_does_not_grow() -> None:
    assert not grows([12, 60, 12, 70, 12, 60, 12, 90, 12])
