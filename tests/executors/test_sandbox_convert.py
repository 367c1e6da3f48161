"""What bubblewrap is told, word by word."""

from __future__ import annotations

from pathlib import Path

import pytest

from executors.base import SHELL_ARGV
from executors.errors import LimitUnsupported, StepRefused
from executors.job import Job, Step
from executors.sandbox import convert
from executors.sandbox.convert import User
from executors.sandbox.manifests import ImageConfig
from executors.settings import SandboxSettings

ROOT = User()


def job_of(**metadata: str) -> Job:
    return Job(id="the-id", name="a name", steps=(), metadata=metadata, priority=2)


def test_the_options_isolate_the_step_and_show_it_only_its_image_and_shared() -> None:
    options = convert.bwrap_options(
        root=convert.overlay(Path("/data/rootfs"), Path("/data/base")),
        shared=Path("/data/shared"),
        user=User(uid=1000, gid=100, home="/"),
        env={"PATH": "/bin", "hades.tum.de/priority": "3"},
    )
    assert " ".join(options) == (
        "--unshare-user --unshare-pid --unshare-net --unshare-ipc --unshare-uts "
        "--unshare-cgroup-try --disable-userns --cap-drop ALL --new-session --die-with-parent "
        "--hostname job --uid 1000 --gid 100 "
        "--overlay-src /data/rootfs --overlay-src /data/base --tmp-overlay / "
        "--bind /data/shared /shared --proc /proc --dev /dev --perms 1777 --tmpfs /tmp "
        "--chdir /shared --clearenv --setenv PATH /bin --setenv hades.tum.de/priority 3"
    )


def test_a_word_with_spaces_stays_one_word() -> None:
    env = {"A": "b --bind / /host"}
    options = convert.bwrap_options(root=(), shared=Path("/s"), user=ROOT, env=env)
    assert options[-3:] == ("--setenv", "A", "b --bind / /host")


def test_more_variables_than_bubblewrap_reads_are_refused() -> None:
    env = {str(number): "" for number in range(3000)}
    with pytest.raises(StepRefused, match="too many variables: 3000"):
        convert.bwrap_options(root=(), shared=Path("/s"), user=ROOT, env=env)


def test_a_script_runs_in_the_shell_that_prefers_bash() -> None:
    config = ImageConfig(entrypoint=("/entry",), cmd=("arg",), env={})
    step = Step(image="i", script="echo 'a'\n")
    assert convert.command(step, config) == (*SHELL_ARGV, "echo 'a'\n")


def test_without_a_script_entrypoint_and_command_of_the_image_run() -> None:
    config = ImageConfig(entrypoint=("/entry", "-x"), cmd=("arg",), env={})
    assert convert.command(Step(image="i"), config) == ("/entry", "-x", "arg")


def test_neither_script_nor_command_is_refused() -> None:
    with pytest.raises(StepRefused, match="image i has no command"):
        convert.command(Step(image="i"), ImageConfig(env={}))


@pytest.mark.parametrize("word", ["a\0--bind\0/\0/host", "\ud800"])
def test_a_word_that_would_become_several_or_none_is_refused(word: str) -> None:
    with pytest.raises(StepRefused, match="command"):
        convert.command(Step(image="i", script=word), ImageConfig(env={}))
    for metadata in ({"NAME": word}, {word: "value"}):
        with pytest.raises(StepRefused, match="environment"):
            convert.step_environment(job_of(), Step(image="i", metadata=metadata), {}, ROOT)


@pytest.mark.parametrize("name", ["", "a=b"])
def test_a_variable_that_no_process_can_have_is_refused(name: str) -> None:
    with pytest.raises(StepRefused, match="environment"):
        convert.step_environment(job_of(**{name: "x"}), Step(image="i"), {}, ROOT)


def test_the_environment_is_the_images_then_the_jobs_then_the_steps() -> None:
    step = Step(image="i", metadata={"B": "step", "UUID": "forged"})
    image_env = {"PATH": "/opt/bin", "A": "image", "B": "image", "C": "image"}
    env = convert.step_environment(job_of(B="job", C="job"), step, image_env, ROOT)
    assert env == {
        "PATH": "/opt/bin",
        "HOME": "/root",
        "HOSTNAME": "job",
        "A": "image",
        "B": "step",
        "C": "job",
        "hades.tum.de/priority": "2",
        "hades.tum.de/priorityName": "medium",
        "UUID": "the-id",
        "JOB_NAME": "a name",
    }


def test_an_image_without_path_gets_the_usual_one_and_home_is_the_users() -> None:
    user = User(uid=5, gid=5, home="/home/five")
    env = convert.step_environment(job_of(), Step(image="i"), {}, user)
    assert env["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert env["HOME"] == "/home/five"


@pytest.mark.parametrize("field", ["cpu_limit", "memory_limit", "memory_swap"])
def test_a_limit_that_takes_a_cgroup_is_refused_by_its_name(field: str) -> None:
    with pytest.raises(LimitUnsupported, match=f"^{field} "):
        convert.refuse_limits(Step(image="i", **{field: 1}))


@pytest.mark.parametrize(
    ("asked", "default", "wanted"),
    [
        ("", "none", False),
        ("", "bridge", True),
        ("none", "bridge", False),
        ("bridge", "none", True),
        ("default", "none", True),
    ],
)
def test_a_step_that_names_no_network_gets_the_settings(
    asked: str, default: str, wanted: bool
) -> None:
    settings = SandboxSettings(network=default)
    assert convert.wants_network(Step(image="i", network=asked), settings) is wanted


@pytest.mark.parametrize("network", ["host", "container:other", "my-net"])
def test_any_other_network_is_refused(network: str) -> None:
    with pytest.raises(LimitUnsupported, match=r"^network "):
        convert.wants_network(Step(image="i", network=network), SandboxSettings())
