"""What every executor does, as tests: `executors/base.py` says it in words.

A test module of an executor subclasses one of

    CoreContract        of any executor, also one that runs no process (`core_contract.py`)
    ExecutorContract    of those that run real images

and gives the fixtures `executor`, `nowhere` and `image`, and `assert_nothing_left`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from executors.base import Executor, OutputStream, StepResult
from executors.errors import LimitUnsupported, Stopped
from executors.job import Step
from tests.executors.core_contract import MIB, CoreContract, Recorder, job_of
from tests.executors.trickle import trickling_registry

__all__ = ["MIB", "CoreContract", "ExecutorContract", "Recorder", "job_of"]

#: Counts in /shared/beat for as long as it lives.
BEAT = "i=0; while :; do i=$((i+1)); echo $i > beat; sleep 0.02; done"
#: Fails when something still counts there.
STILL = 'test -s beat; a=$(cat beat); sleep 0.5; b=$(cat beat); test "$a" = "$b"'


class ExecutorContract(CoreContract):
    """What is true of real images, processes and files."""

    unsupported: ClassVar[Mapping[str, Any]] = {}
    """Fields of a step that this machine cannot enforce, each with a value that asks for it."""

    def outputs(self, executor: Executor, image: str, script: str, **more: Any) -> bytes:
        """What a script writes to stdout; it must succeed."""
        result, sink = self.run_one(executor, image, script, **more)
        assert result.succeeded, (result, sink.stderr)
        return sink.stdout

    @pytest.mark.parametrize(
        ("script", "stdout"),
        [
            ("""echo "double 'single' \\"both\\"" 'single "double"'""", None),
            ("x='  two  spaces  '; echo \"$x\"; echo $x", "  two  spaces  \ntwo spaces\n"),
            ("echo a\necho b\n\n  echo c\n", "a\nb\nc\n"),
            ("for i in 1 2; do\n  echo $i\ndone # end", "1\n2\n"),
            ("echo 'ä ✓ 𝄞 日本'", "ä ✓ 𝄞 日本\n"),
            ("echo '$HOME `id` $(id) \\n %s'  | cat", "$HOME `id` $(id) \\n %s\n"),
            ("cat <<'END'\n\"$quoted\"\nEND\n", '"$quoted"\n'),
            ("set -- a 'b c'; echo $#", "2\n"),
            ("#!/bin/sh\necho shebang", "shebang\n"),
        ],
    )
    def test_a_script_reaches_its_shell_as_it_is(
        self, executor: Executor, image: str, script: str, stdout: str | None
    ) -> None:
        expected = stdout or 'double \'single\' "both" single "double"\n'
        assert self.outputs(executor, image, script).decode() == expected

    def test_a_value_of_metadata_is_not_interpreted(self, executor: Executor, image: str) -> None:
        value = "$HOME `id` 'x' \"y\" \\ \n=ä"
        written = self.outputs(executor, image, 'printf %s "$VALUE"', metadata={"VALUE": value})
        assert written.decode() == value

    def test_a_process_that_signal_9_ended_counts_as_137(
        self, executor: Executor, image: str
    ) -> None:
        result, _ = self.run_one(executor, image, "sh -c 'kill -9 $$'; exit $?")
        assert result == StepResult(exit_code=137)

    def test_stdin_is_empty(self, executor: Executor, image: str) -> None:
        assert self.outputs(executor, image, "cat; echo end") == b"end\n"

    def test_without_a_script_the_images_own_command_runs(
        self, executor: Executor, image: str
    ) -> None:
        """The command of the test images is a shell, which ends at once on empty input."""
        assert self.outputs(executor, image, "") == b""

    def test_shared_is_writable_with_any_umask_and_tmp_too(
        self, executor: Executor, image: str
    ) -> None:
        script = "touch /shared/f /tmp/f && mkdir -p a/b && ln -s b a/l && ls a"
        assert self.outputs(executor, image, script) == b"b\nl\n"

    def test_file_modes_last_from_step_to_step(self, executor: Executor, image: str) -> None:
        steps = [
            Step(image=image, script="printf '#!/bin/sh\\necho ran' > x; chmod 750 x; ln -s x y"),
            Step(image=image, script="./y; stat -c %a x"),
        ]
        sink = Recorder()
        with executor.open(job_of(*steps), 1) as workspace:
            assert workspace.run_step(steps[0], Recorder(), None).succeeded
            assert workspace.run_step(steps[1], sink, None).succeeded
        assert sink.stdout == b"ran\n750\n"

    def test_a_step_that_closes_its_outputs_is_waited_for(
        self, executor: Executor, image: str
    ) -> None:
        script = "echo begun; exec >&- 2>&-; sleep 0.3; exit 5"
        result, sink = self.run_one(executor, image, script)
        assert result == StepResult(exit_code=5)
        assert sink.stdout == b"begun\n"

    @pytest.mark.parametrize(
        ("script", "timeout"),
        [
            (f"({BEAT}) & while ! test -s beat; do sleep 0.02; done", None),
            (f"({BEAT}) & sleep 600", patience := CoreContract.patience),
            (f"trap '' TERM INT HUP; {BEAT}", patience),
            (f"(setsid sh -c '{BEAT}' &) ; sleep 600", patience),
        ],
        ids=["left behind", "in the background", "deaf to TERM", "in a session of its own"],
    )
    def test_no_process_outlives_its_step(
        self, executor: Executor, image: str, script: str, timeout: float | None
    ) -> None:
        steps = [Step(image=image, script=script), Step(image=image, script=STILL)]
        job = job_of(*steps)
        with executor.open(job, 1) as workspace:
            ended = workspace.run_step(steps[0], Recorder(), timeout)
            assert ended.timed_out == (timeout is not None)
            sink = Recorder()
            result = workspace.run_step(steps[1], sink, None)
            assert result.succeeded, sink.stderr
        self.assert_nothing_left(executor, job)

    def test_endless_output_ends_when_the_time_is_up(self, executor: Executor, image: str) -> None:
        step, sink = Step(image=image, script="yes"), Counter()
        with executor.open(job_of(step), 1) as workspace:
            assert workspace.run_step(step, sink, self.patience / 2).timed_out
        assert sink.total > 0

    def test_output_is_handed_on_while_the_step_still_runs(
        self, executor: Executor, image: str
    ) -> None:
        """The step waits for a file that only the first line of its output brings about."""
        job = job_of()
        go = Step(image=image, script="touch go")
        wait = Step(image=image, script="echo ready; while ! test -e go; do sleep 0.02; done")
        with executor.open(job, 1) as workspace, ThreadPoolExecutor(1) as threads:
            ready = threading.Event()
            waiting = threads.submit(workspace.run_step, wait, Recorder(ready.set), 60.0)
            assert ready.wait(60)
            assert workspace.run_step(go, Recorder(), None).succeeded
            assert waiting.result().succeeded

    def test_a_pull_that_nobody_waits_for_any_more_is_given_up(self, executor: Executor) -> None:
        with trickling_registry() as registry, executor.open(job_of(), 1) as workspace:
            step = Step(image=registry.image, script="true")
            with ThreadPoolExecutor(1) as threads:
                waiting = threads.submit(workspace.prepare, step, Recorder(), None)
                assert registry.begun.wait(60)
                workspace.stop()
                with pytest.raises(Stopped):
                    waiting.result(60)
            assert registry.broken_off.wait(60)

    def test_the_network_none_has_only_loopback(self, executor: Executor, image: str) -> None:
        script = "grep -v '|' /proc/net/dev | cut -d: -f1 | tr -d ' '"
        assert self.outputs(executor, image, script, network="none") == b"lo\n"

    def test_a_limit_that_cannot_be_held_is_refused_by_its_name(
        self, executor: Executor, image: str
    ) -> None:
        for field, value in self.unsupported.items():
            with pytest.raises(LimitUnsupported, match=f"^{field} "):
                self.run_one(executor, image, "true", **{field: value})


class Counter:
    """A sink that only counts."""

    total = 0

    def open(self, container_id: str) -> None:
        """Nothing to keep."""

    def write(self, stream: OutputStream, data: bytes) -> None:
        self.total += len(data)
