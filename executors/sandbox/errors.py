"""What bubblewrap's words mean, and the kernel's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from executors.errors import ExecutorUnavailable, InfrastructureError
from executors.resources import failure

_EXEC_FAILED = "bwrap: execvp "
_CAUSES = (
    (
        ("namespace", "uid map", "gid map"),
        "user namespaces are not allowed here (sysctl user.max_user_namespaces, "
        "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, or a "
        "chroot)",
    ),
    (("overlay",), "overlayfs can't be mounted in a user namespace (needs Linux 5.11)"),
    (("mount proc",), "/proc can't be mounted in a user namespace (is this itself a container?)"),
    (("no space left", "quota exceeded"), "the disk of HADES_DATA_DIR is full"),
    (("too many open files",), "the worker may open no more files (ulimit -n)"),
    (("read-only file system",), "the disk of HADES_DATA_DIR can't be written to"),
)


def exec_failure(words: str) -> str | None:
    """bwrap's last line when all was set up but the command could not be executed."""
    lines = words.strip().splitlines()
    last = lines[-1] if lines else ""
    return last if last.startswith(_EXEC_FAILED) else None


def exec_exit_code(failure: str) -> int:
    """What a shell says: 126 for a file that is no program, 127 for no file."""
    return 127 if failure.endswith("No such file or directory") else 126


def setup_failed(words: str) -> InfrastructureError:
    """The sandbox could not be made, through no fault of the step."""
    reason = f"the sandbox could not be made: {words.strip() or 'no reason given'}"
    return unavailable(reason) if _cause(words) else InfrastructureError(reason)


def unavailable(reason: str) -> ExecutorUnavailable:
    """One line for whoever runs the machine: the likely cause, and the words it is read from."""
    cause = _cause(reason) or "no sandbox can be made on this machine"
    return ExecutorUnavailable(f"{cause}: {' '.join(reason.split())}")


def _cause(words: str) -> str:
    """Empty when the words are of none that we know."""
    causes = (cause for signs, cause in _CAUSES if any(sign in words.lower() for sign in signs))
    return next(causes, "")


@contextmanager
def machine_errors(doing: str) -> Iterator[None]:
    """An OSError is the machine's failure; ExecutorUnavailable when it would hit any job."""
    try:
        yield
    except OSError as error:
        raise failure(doing, error) from error
