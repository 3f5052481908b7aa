"""A process that writes and fsyncs a small file wherever it is asked to.

Run by path, isolated, standard library only. Each line of standard input asks once; the
answer is one line of JSON: free bytes and size by directory, or the first error. A
frozen file system leaves this process waiting in the kernel, and nobody else.
"""

import json
import os
import sys

BLOCK = 512


def main(directories: list[str], uid: int, gid: int) -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        answer = check(directories, line.strip(), uid, gid)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def check(directories: list[str], text: str, uid: int, gid: int) -> dict[str, object]:
    """Write ``text`` durably in each directory."""
    free, size = {}, {}
    for directory in directories:
        try:
            write(f"{directory}/pgbastion.probe", text, uid, gid)
            status = os.statvfs(directory)
        except OSError as exc:
            return {"error": f"{directory}: {exc.strerror}", "errno": exc.errno}
        free[directory] = status.f_bavail * status.f_frsize
        size[directory] = status.f_blocks * status.f_frsize
    return {"free": free, "size": size}


def write(path: str, text: str, uid: int, gid: int) -> None:
    """Write one block in place and wait until it is on the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(path, flags, 0o600)
    try:
        if os.fstat(handle).st_uid != uid:
            os.fchown(handle, uid, gid)
        os.pwrite(handle, text.encode().ljust(BLOCK)[:BLOCK], 0)
        os.fsync(handle)
    finally:
        os.close(handle)


if __name__ == "__main__":
    main(sys.argv[3:], int(sys.argv[1]), int(sys.argv[2]))
