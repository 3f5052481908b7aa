"""What rests on one operating system, behind one small interface.

Everybody asks `choice.current`; only that module knows the implementations. They import
the standard library alone, since the guard does; the portable one adds psutil.
"""
