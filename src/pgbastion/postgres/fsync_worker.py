"""A process that writes and fsyncs a small file wherever it is asked to.

Run by path, isolated, standard library only. Each line of standard input asks once; the
answer is one line of JSON: free bytes and size by directory, or the first error. A
frozen file system leaves this process waiting in the kernel, and nobody else.

It also looks whether the files that no running server is without are there: one whose
files were removed goes on writing to them, and to what nobody will find again.
"""

import errno
import json
import os
import sys

BLOCK = 512
SEGMENT_NAME_LENGTH = 24


def main(directories: list[str], uid: int, gid: int) -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        answer = check(directories, line.strip(), uid, gid)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def check(directories: list[str], text: str, uid: int, gid: int) -> dict[str, object]:
    """Write ``text`` durably in each directory; the first one is the server's."""
    free, size = {}, {}
    for directory in directories:
        try:
            write(f"{directory}/pgbastion.probe", text, uid, gid)
            status = os.statvfs(directory)
        except OSError as exc:
            return {"error": f"{directory}: {exc.strerror}", "errno": exc.errno}
        free[directory] = status.f_bavail * status.f_frsize
        size[directory] = status.f_blocks * status.f_frsize
    lost = missing(directories[0])
    if lost is not None:
        return {"error": f"{directories[0]}: {lost} is gone", "errno": errno.ENOENT}
    return {"free": free, "size": size}


def missing(data_dir: str) -> str | None:
    """Return what a running server would have there and is gone; None: nothing."""
    if not os.access(f"{data_dir}/global/pg_control", os.F_OK):
        return "global/pg_control"
    try:
        with os.scandir(f"{data_dir}/pg_wal") as found:
            has_wal = any(len(each.name) == SEGMENT_NAME_LENGTH for each in found)
    except OSError:
        return "pg_wal"
    return None if has_wal else "the WAL in pg_wal"


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
