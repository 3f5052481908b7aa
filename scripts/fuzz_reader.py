"""One reader under libFuzzer: fuzz_reader.py READER [libFuzzer's arguments]."""

import sys

import atheris

with atheris.instrument_imports(include=["pgbastion.proxy"]):
    from support.fuzzed import READERS


def main() -> None:
    """Feed the reader that is named first until the time is over."""
    program, reader, *arguments = sys.argv
    atheris.Setup([program, *arguments], READERS[reader])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
