"""From a step and its image to what bubblewrap is told. Pure: no files, no processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from executors.base import SHELL_ARGV
from executors.errors import LimitUnsupported, StepRefused
from executors.job import SHARED_DIR, Job, Step, environment
from executors.sandbox.manifests import ImageConfig
from executors.settings import SandboxSettings

HOSTNAME = "job"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_OPTIONS = 8900
"""Words that bubblewrap parses; its own limit is 9000."""

ISOLATION = (
    "--unshare-user",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--disable-userns",
    "--cap-drop",
    "ALL",
    "--new-session",
    "--die-with-parent",
    "--hostname",
    HOSTNAME,
)
_MOUNTS = ("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp")


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """Whom a step's processes are, seen from inside."""

    uid: int = 0
    gid: int = 0
    home: str = "/root"


def overlay(*layers: Path) -> tuple[str, ...]:
    """A root that is written to memory only; of two files with one name the later layer's wins."""
    sources = chain.from_iterable(("--overlay-src", str(layer)) for layer in layers)
    return (*sources, "--tmp-overlay", "/")


def bwrap_options(
    *, root: tuple[str, ...], shared: Path, user: User, env: Mapping[str, str]
) -> tuple[str, ...]:
    """All options but those that name open files. Raises StepRefused."""
    options = (
        *ISOLATION,
        *("--uid", str(user.uid), "--gid", str(user.gid)),
        *root,
        *("--bind", str(shared), SHARED_DIR),
        *_MOUNTS,
        *("--chdir", SHARED_DIR, "--clearenv"),
        *chain.from_iterable(("--setenv", name, value) for name, value in env.items()),
    )
    if len(options) > MAX_OPTIONS:
        raise StepRefused(f"its environment has too many variables: {len(env)}")
    return options


def step_environment(
    job: Job, step: Step, image_env: Mapping[str, str], user: User
) -> dict[str, str]:
    """All that the step finds in its environment. Raises StepRefused."""
    env = {
        "PATH": DEFAULT_PATH,
        "HOME": user.home,
        **image_env,
        "HOSTNAME": HOSTNAME,
        **environment(job, step),
    }
    for name, value in env.items():
        if not name or "=" in name or not (is_plain(name) and is_plain(value)):
            raise StepRefused("its environment has a name or a value that no process can have")
    return env


def command(step: Step, config: ImageConfig) -> tuple[str, ...]:
    """The script in the image's shell, else what the image itself runs. Raises StepRefused."""
    argv = (*SHELL_ARGV, step.script) if step.script else (*config.entrypoint, *config.cmd)
    if not argv:
        raise StepRefused(f"image {step.image} has no command, and the step has no script")
    if not all(map(is_plain, argv)):
        raise StepRefused("its command has a character that no argument can have")
    return argv


def is_plain(text: str) -> bool:
    """Whether it can travel as one argument: a NUL would end it, and begin an option."""
    try:
        return b"\0" not in text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False


def refuse_limits(step: Step) -> None:
    """Raises LimitUnsupported for what only a cgroup could hold."""
    for field in ("cpu_limit", "memory_limit", "memory_swap"):
        if getattr(step, field):
            raise LimitUnsupported(field, "the sandbox executor has no means to hold it")


def wants_network(step: Step, settings: SandboxSettings) -> bool:
    """Whether the step gets more than a loopback of its own. Raises LimitUnsupported."""
    network = step.network or settings.network
    if network in ("none", "bridge", "default"):
        return network != "none"
    raise LimitUnsupported("network", f"there is no network {network}, only none and bridge")
