import logging

import pytest

from executors.errors import JobTooLarge, QueueUnavailable

SECRET = "hunter2"
JOB = {
    "name": "job",
    "metadata": {"PASSWORD": SECRET},
    "steps": [{"image": "alpine", "script": f"echo {SECRET}", "metadata": {"TOKEN": SECRET}}],
}


@pytest.mark.parametrize("path", ["/", "/builds", "/build/", "/ping/x", "/api/jobs", "/%00%0a"])
def test_an_unknown_route_is_a_404_in_plain_text(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.text) == (404, "404 page not found")
    assert answer.mimetype == "text/plain"


@pytest.mark.parametrize(("method", "path"), [("GET", "/build"), ("PUT", "/ping")])
def test_a_wrong_method_is_a_405_that_names_the_right_one(client, method, path):
    answer = client.open(path, method=method)
    assert answer.status_code == 405
    assert answer.mimetype == "text/plain"
    assert ("POST" if path == "/build" else "GET") in answer.headers["Allow"]


def test_a_queue_that_does_not_confirm_is_a_500_in_the_words_that_clients_know(client, queue):
    queue.failure = QueueUnavailable("no answer")
    answer = client.post("/build", json=JOB)
    assert (answer.status_code, answer.text) == (500, "Failed to enqueue job")
    assert answer.mimetype == "text/plain"


def test_a_job_that_fits_into_no_message_is_a_413(client, queue):
    queue.failure = JobTooLarge("the job takes 1100000 bytes as a message, the limit is 1048576")
    answer = client.post("/build", json=JOB)
    assert answer.status_code == 413
    assert answer.text == f"Request body too large: {queue.failure}"


def test_an_unexpected_failure_is_a_500_without_internals(client, queue):
    queue.failure = RuntimeError(f"unexpected {SECRET}")
    answer = client.post("/build", json=JOB)
    assert (answer.status_code, answer.text) == (500, "500 internal server error")


def test_an_unexpected_failure_is_logged_with_its_path_kind_and_place(client, queue, caplog):
    queue.failure = RuntimeError("unexpected")
    client.post("/build", json=JOB)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "/build" in record.message
    assert "RuntimeError" in record.message
    assert "recording_queue.py" in record.message


@pytest.mark.parametrize(
    "failure", [None, RuntimeError(str(JOB)), QueueUnavailable(str(JOB)), JobTooLarge("too large")]
)
def test_nothing_of_a_job_reaches_a_log(client, queue, caplog, capfd, failure):
    caplog.set_level(logging.DEBUG)
    queue.failure = failure
    client.post("/build", json=JOB)
    client.post("/build", json={**JOB, "priority": SECRET})
    client.post("/build", data=f'{{"script": "{SECRET}"')
    out, err = capfd.readouterr()
    assert SECRET not in caplog.text + out + err
