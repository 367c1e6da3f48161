"""Makes a chroot a root of its own: in a chroot, the kernel gives user namespaces to nobody.

Root may leave its chroot for a mount namespace in which the same tree is the whole world. Nothing
outside the tree is reachable afterwards either; every container runtime begins like this.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

_CLONE_FS = 0x00000200
_CLONE_NEWNS = 0x00020000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000
_MNT_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
"""Number of a system call for which C libraries have no function."""

_LIBC = ctypes.CDLL(None, use_errno=True)


def in_chroot() -> bool:
    """Whether this process's root is not that of its mount namespace; False when unknown.

    Looks from a thread that has a root of its own, and ends.
    """
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(_looks_chrooted()))
    thread.start()
    thread.join()
    return found == [True]


def make_root() -> None:
    """Make the tree below this chroot the root of a mount namespace. Raises OSError.

    For the calling thread and those that it starts from now on: call it before there are any. The
    working directory stays what it was.
    """
    here = os.getcwd()
    _own_mounts()
    tree = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _to_namespace_root()
        _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
        os.fchdir(tree)
        where = os.getcwd()
        _call("mount", b".", b".", None, _MS_BIND | _MS_REC, None)
        os.chdir(where)  # from below the new mount onto it
        _call("syscall", _PIVOT_ROOT[os.uname().machine], b".", b".")
        _call("umount2", b".", _MNT_DETACH)
        os.chdir(here)
    finally:
        os.close(tree)


def _looks_chrooted() -> bool:
    try:
        _own_mounts()
        before = _root()
        _to_namespace_root()
        return _root() != before
    except OSError:
        return False


def _root() -> tuple[str, int]:
    """Which mount this thread's root is on, and which directory of it."""
    handle = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        facts = Path(f"/proc/thread-self/fdinfo/{handle}").read_text()
        return facts.partition("mnt_id:")[2].split()[0], os.fstat(handle).st_ino
    finally:
        os.close(handle)


def _own_mounts() -> None:
    """A copy of the mounts, and a root, for this thread alone."""
    _call("unshare", _CLONE_FS | _CLONE_NEWNS)


def _to_namespace_root() -> None:
    """Move this thread's root to the very root of its mounts."""
    namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", namespace, _CLONE_NEWNS)
    finally:
        os.close(namespace)


def _call(name: str, *arguments: object) -> None:
    if getattr(_LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
