"""The one tree of errors.

    HadesError
    |-- JobInvalid                  a submission breaks the contract; nobody has accepted it
    |-- QueueError                  a valid job was not accepted
    |   |-- JobTooLarge             it does not fit into one message
    |   |-- JobQueueFull            as many jobs as may wait do so
    |   `-- QueueUnavailable        NATS did not confirm it
    |-- AttemptLost                 another attempt of the job has taken over
    `-- ExecutorError
        |-- StepRefused             this step cannot run here, and no further attempt will help
        |   |-- ImageUnavailable    its image can be neither found nor pulled
        |   `-- LimitUnsupported    it asks for something this executor cannot enforce
        |-- Stopped                 its workspace was told to stop: no outcome of its own
        `-- InfrastructureError     the machine failed, not the job; another attempt may succeed
            `-- ExecutorUnavailable this executor can run no job at all at the moment

A step that ran and failed is no error: it is a `StepResult`. An exception of a client library
becomes one of these in the `errors` room of its executor, with its cause chained.
"""

from collections.abc import Sequence


class HadesError(Exception):
    """Root of all errors that are ours."""


class JobInvalid(HadesError):
    """A submission breaks the contract. Its text is meant for the person who submitted it."""

    def __init__(
        self, message: str, field: str = "", problems: Sequence[tuple[str, str]] = ()
    ) -> None:
        """`field` is the path of what is wrong, like `steps[0].image`; printable ASCII.

        `problems` are the path and the text of each thing that is wrong, when there are several.
        """
        super().__init__(message)
        self.field = field
        self.problems = tuple(problems) or ((field, message),)


class QueueError(HadesError):
    """A valid job was not accepted; the client may send it again."""


class JobTooLarge(QueueError):
    """The job does not fit into one message."""


class JobQueueFull(QueueError):
    """As many jobs as may wait do so. Nothing was stored."""


class QueueUnavailable(QueueError):
    """NATS did not confirm that it has the job."""


class AttemptLost(HadesError):
    """Another attempt of the job has taken over: this one may change nothing any more."""


class ExecutorError(HadesError):
    """Root of what can go wrong while a job is being run."""


class StepRefused(ExecutorError):
    """A step cannot run on this executor. The text is shown as the job's reason."""


class ImageUnavailable(StepRefused):
    """The image of a step can be neither found nor pulled."""

    def __init__(self, image: str, why: str) -> None:
        super().__init__(
            f"encountered 1 errors while pulling images: failed to pull image {image}: {why}"
        )
        self.why = why


class LimitUnsupported(StepRefused):
    """A step asks for a limit or a network that this executor cannot enforce."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field} is not supported here: {why}")


class Stopped(ExecutorError):
    """The attempt's workspace was told to stop. What that means for the job knows who told it."""


class InfrastructureError(ExecutorError):
    """The machine failed, not the job. Another attempt may succeed."""


class ExecutorUnavailable(InfrastructureError):
    """No job can be run here at the moment (daemon down, disk full, kernel feature missing)."""
