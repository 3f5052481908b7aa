"""The data path inside the kernel: sessions whose bytes pass no program."""
