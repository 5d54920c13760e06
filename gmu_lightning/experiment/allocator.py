"""Freed memory is kept for the next activation: fresh pages for every one cost a convolution as much as its arithmetic."""

from __future__ import annotations

import ctypes
import os
import sys

# malloc.h. By themselves glibc's large blocks are mapped anew and given back each time, and every page is cleared again.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
SETTINGS = (
    (M_MMAP_MAX, 0),  # a large block comes from the heap, too
    (M_ARENA_MAX, 1),  # from one heap for all threads: a thread's own is too small for large blocks, and given back
    (M_TOP_PAD, 64 << 20),  # the heap grows in steps of so many bytes
    (M_TRIM_THRESHOLD, 2**31 - 1),  # and does not shrink while less than so many are free at its end
)
OWN_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_ARENA_MAX")


def keep_pages() -> bool:
    """Set glibc's allocator so that it reuses pages; True where it is set.

    Nothing happens with another C library, where another allocator is preloaded, or where the environment has settings of its
    own (`MALLOC_..._`, `GLIBC_TUNABLES`). To be called before anything large is allocated; a second call changes nothing.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in (*OWN_SETTINGS, "GLIBC_TUNABLES", "LD_PRELOAD")):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version") or not hasattr(library, "mallopt"):
        return False
    done = [library.mallopt(option, value) == 1 for option, value in SETTINGS]  # each, whatever another answers
    return all(done)
