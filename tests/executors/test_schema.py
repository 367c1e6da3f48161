import json
from pathlib import Path

import pytest

from executors.errors import JobInvalid
from executors.job import Job, Retry, RetryOn, Step
from executors.schema import load_job, parse_size

EXAMPLES = Path(__file__).parents[2] / "examples"
STEP = {"image": "alpine"}
LONGEST = 128 * 1024 - 1


def load(**fields) -> Job:
    return load_job({"name": "job", "steps": [STEP], **fields}, job_id="7")


def load_step(**fields) -> Step:
    return load(steps=[{**STEP, **fields}]).steps[0]


def refusal(**fields) -> str:
    with pytest.raises(JobInvalid) as refused:
        load(**fields)
    return str(refused.value)


def step_refusal(**fields) -> str:
    return refusal(steps=[{**STEP, **fields}])


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("", 0), ("0g", 0), ("512m", 512 * 2**20), ("512M", 512 * 2**20), ("2G", 2**31)],
)
def test_a_size_is_a_number_of_binary_units(text, size):
    assert parse_size(text) == size


def test_the_largest_size_fits_into_64_bits():
    assert parse_size("8589934591g") == 2**63 - 2**30


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1024",
            "512Mi",
            "2k",
            "g",
            "1.5g",
            "-1g",
            " 1g",
            "1g ",
            "1g\n",
            "\u0661g",
            "2GB",
            "0x1g",
        ),
        *("8589934592g", "17179869184G", "9" * 5000 + "g"),
    ],
)
def test_anything_else_is_no_size(text):
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


# --- what is taken -------------------------------------------------------------------------------


def test_the_defaults_of_a_job():
    assert load() == Job(
        id="7",
        name="job",
        priority=3,
        timestamp="0001-01-01T00:00:00Z",
        metadata={},
        steps=(Step(image="alpine"),),
        callback_url="",
        status_callback_url="",
        timeout_seconds=0,
        retry=Retry(max=0, backoff_seconds=0.0, on=(RetryOn.FAILURE,)),
        submitted_by="",
    )


def test_all_fields_are_taken():
    job = load(
        priority=-4,
        timestamp="2021-01-01T00:00:00.123456789+02:00",
        metadata={"A": "1"},
        steps=[
            {
                "id": 1,
                "name": "Build",
                "image": "alpine",
                "script": "true",
                "continue_on_error": True,
                "metadata": {"B": "2"},
                "cpu_limit": 2,
                "memory_limit": "1g",
                "memory_swap": "2g",
                "pids_limit": 100,
                "network": "none",
                "timeout_seconds": 60,
                "retry": {"max": 10, "backoff_seconds": 0.5, "on": ["timeout", "oom", "image"]},
            }
        ],
        callback_url="https://example.org:8443/logs?job=1",
        status_callback_url="https://example.org:8443/state",
        timeout_seconds=600,
        retry={"max": 1, "backoff_seconds": 300},
    )
    assert job == Job(
        id="7",
        name="job",
        priority=-4,
        timestamp="2021-01-01T00:00:00.123456789+02:00",
        metadata={"A": "1"},
        steps=(
            Step(
                id=1,
                name="Build",
                image="alpine",
                script="true",
                continue_on_error=True,
                metadata={"B": "2"},
                cpu_limit=2,
                memory_limit=2**30,
                memory_swap=2**31,
                pids_limit=100,
                network="none",
                timeout_seconds=60,
                retry=Retry(
                    max=10,
                    backoff_seconds=0.5,
                    on=(RetryOn.TIMEOUT, RetryOn.OOM, RetryOn.IMAGE),
                ),
            ),
        ),
        callback_url="https://example.org:8443/logs?job=1",
        status_callback_url="https://example.org:8443/state",
        timeout_seconds=600,
        retry=Retry(max=1, backoff_seconds=300.0, on=(RetryOn.FAILURE,)),
    )


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.name)
def test_the_examples_are_taken(path):
    assert load_job(json.loads(path.read_text()), job_id="7").steps


def test_names_of_fields_are_matched_in_any_case():
    job = load_job({"NAME": "job", "Steps": [{"iMage": "alpine", "CPU_LIMIT": 1}]}, job_id="7")
    assert job.steps == (Step(image="alpine", cpu_limit=1),)


def test_of_fields_that_differ_by_case_the_last_wins():
    assert load(Name="other").name == "other"


def test_names_in_metadata_keep_their_case():
    assert load(metadata={"Path": "a", "PATH": "b"}).metadata == {"Path": "a", "PATH": "b"}


@pytest.mark.parametrize("name", ["continue_on_error", "ContinueOnError", "continueOnError"])
def test_continue_on_error_has_two_spellings(name):
    assert load_step(**{name: True}).continue_on_error is True


def test_null_means_the_default():
    job = dict.fromkeys(("id", "priority", "timestamp", "metadata", "callback_url", "retry"))
    step = dict.fromkeys(("id", "name", "script", "continue_on_error", "metadata", "cpu_limit"))
    step["retry"] = dict.fromkeys(("max", "backoff_seconds", "on"))
    nothing = dict.fromkeys(("status_callback_url", "timeout_seconds"))
    assert load(**job, **nothing, steps=[{**STEP, **step, "timeout_seconds": None}]) == load()


def test_a_null_in_metadata_is_an_empty_string():
    assert load(metadata={"A": None}).metadata == {"A": ""}


def test_unknown_fields_are_ignored():
    extra = {"volumeMounts": [{"name": "shared"}], "workingDir": "/shared"}
    assert load(volumes=[1], steps=[{**STEP, **extra}]) == load()


def test_who_submitted_a_job_is_not_the_clients_to_say():
    assert load(submitted_by="somebody", Submitted_By="else") == load()


def test_names_in_a_retry_are_matched_in_any_case_and_its_words_count_once():
    retry = {"MAX": 3, "On": ["oom", "failure", "oom"], "jitter": True}
    assert load_step(RETRY=retry).retry == Retry(max=3, on=(RetryOn.OOM, RetryOn.FAILURE))


@pytest.mark.parametrize(
    "given",
    [
        "11111111-2222-4333-8444-555555555555",
        "{11111111-2222-4333-8444-555555555555}",
        "urn:uuid:11111111-2222-4333-8444-555555555555",
        "11111111222243338444555555555555",
    ],
)
def test_the_clients_id_is_ignored(given):
    assert load(id=given).id == "7"


def test_as_many_steps_as_a_job_may_have():
    assert len(load(steps=[STEP] * 100).steps) == 100


def test_the_longest_strings_that_the_kernel_hands_on():
    assert len(load_step(script="x" * LONGEST).script) == LONGEST
    assert load(metadata={"A": "x" * (LONGEST - 2)})
    assert "metadata.A is too large" in refusal(metadata={"A": "x" * (LONGEST - 1)})
    assert "script is too large" in step_refusal(script="x" * (LONGEST + 1))


def test_sizes_of_strings_are_counted_in_bytes():
    assert "script is too large" in step_refusal(script="ü" * (LONGEST // 2 + 1))


@pytest.mark.parametrize("network", ["none", "bridge", "default", "my_net-1.2", "hosts"])
def test_networks_that_a_step_may_name(network):
    assert load_step(network=network).network == network


# --- the texts that clients know -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["", None])
def test_a_name_is_required(name):
    assert refusal(name=name) == 'Invalid request payload: "name" is required'


def test_of_an_empty_object_the_name_is_missed_first():
    with pytest.raises(JobInvalid) as refused:
        load_job({}, job_id="7")
    assert str(refused.value) == 'Invalid request payload: "name" is required'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "timeout_seconds cannot be negative"),
        (9223372037, "timeout_seconds must not exceed 9223372036"),
    ],
)
def test_texts_about_the_timeout(seconds, text):
    assert refusal(timeout_seconds=seconds) == text
    assert step_refusal(timeout_seconds=seconds) == f"{text} (steps[0].timeout_seconds)"
    assert load(timeout_seconds=9223372036).timeout_seconds == 9223372036
    assert load_step(timeout_seconds=9223372036).timeout_seconds == 9223372036


@pytest.mark.parametrize(
    ("fields", "text", "field"),
    [
        ({"memory_limit": "1Ki"}, "Failed to parse RAM limit", "memory_limit"),
        ({"memory_swap": "1Ki"}, "Failed to parse memory_swap limit", "memory_swap"),
        ({"memory_swap": "1g"}, "memory_swap requires memory_limit to be set", "memory_swap"),
        (
            {"memory_limit": "2g", "memory_swap": "1g"},
            "memory_swap must be greater than or equal to memory_limit",
            "memory_swap",
        ),
        ({"pids_limit": -1}, "pids_limit cannot be negative", "pids_limit"),
        (
            {"network": "a b"},
            "invalid network mode: must be none, bridge, host, default, or a valid network name",
            "network",
        ),
    ],
)
def test_texts_about_a_step_come_first_and_then_its_field(fields, text, field):
    assert step_refusal(**fields) == f"{text} (steps[0].{field})"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://a b/", "is not parseable"),
        ("http://[::1", "is not parseable"),
        ("http://example.org:port/", "is not parseable"),
        ("http://example.org:99999/", "is not parseable"),
        ("http://example.org/%zz", "is not parseable"),
        ("http://example.org/\n", "is not parseable"),
        (" http://example.org/", "is not parseable"),
        ("://example.org", "is not parseable"),
        ("/logs", "must be absolute"),
        ("//example.org/logs", "must be absolute"),
        ("ftp://example.org/", "scheme must be http or https"),
        ("localhost:8080/logs", "scheme must be http or https"),
        ("file:///etc/passwd", "scheme must be http or https"),
        ("http://", "must include a host"),
        ("http:///logs", "must include a host"),
        ("http://user@/logs", "must include a host"),
        ("https:logs", "must include a host"),
    ],
)
def test_texts_about_the_callbacks(url, text):
    assert refusal(callback_url=url) == f"Invalid callback_url: callback URL {text}"
    assert refusal(status_callback_url=url) == f"Invalid status_callback_url: callback URL {text}"


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8082/adapter/logs", "HTTPS://Example.org", "http://[::1]:80/?a={b}|c#d"],
)
def test_callbacks_that_are_taken(url):
    job = load(callback_url=url, status_callback_url=url)
    assert (job.callback_url, job.status_callback_url) == (url, url)


def test_the_first_rule_that_is_broken_is_told():
    broken = {"memory_limit": "x", "pids_limit": -1}
    everything = {"timeout_seconds": -1, "steps": [STEP, broken], "callback_url": "x"}
    assert refusal(**everything, name="", priority="x").startswith("Invalid JSON body: priority")
    assert refusal(**everything, name="").startswith("Invalid request payload: ")
    assert refusal(**everything) == "timeout_seconds cannot be negative"
    everything["timeout_seconds"] = 0
    assert refusal(**everything) == "Failed to parse RAM limit (steps[1].memory_limit)"
    broken["memory_limit"] = ""
    assert refusal(**everything) == "pids_limit cannot be negative (steps[1].pids_limit)"
    broken["pids_limit"] = 0
    assert refusal(**everything) == "Invalid callback_url: callback URL must be absolute"
    everything["callback_url"] = ""
    assert refusal(**everything) == "Invalid request payload: steps[1].image is required"


# --- texts of our own ----------------------------------------------------------------------------


def test_several_problems_are_told_at_once():
    with pytest.raises(JobInvalid) as refused:
        load(name=" ", steps=[{}, {**STEP, "network": "host"}])
    assert str(refused.value) == (
        "Invalid request payload: name must not be blank; steps[0].image is required; "
        "steps[1].network: host is not allowed"
    )
    assert refused.value.field == "name, steps[0].image, steps[1].network"


def test_values_of_a_wrong_type_are_told_at_once():
    text = refusal(priority="x", metadata={"A": 1}, steps=[{"cpu_limit": -1}, 5])
    assert text.startswith("Invalid JSON body: ")
    assert set(text.removeprefix("Invalid JSON body: ").split("; ")) == {
        "priority must be a whole number",
        "metadata.A must be a string",
        "steps[0].cpu_limit must be a whole number not below 0 of at most 64 bits",
        "steps[1] must be an object",
    }


@pytest.mark.parametrize(
    ("retry", "path", "text"),
    [
        *((value, "retry", "must be an object") for value in (3, "3", [], True)),
        *(
            ({"max": value}, "retry.max", "must be a whole number from 0 to 10")
            for value in (-1, 11, 1.0, True, "1", [], float("inf"))
        ),
        *(
            ({"backoff_seconds": value}, "retry.backoff_seconds", "must be a number from 0 to 300")
            for value in (-1, 300.1, True, "1", [], float("inf"), float("nan"))
        ),
        *(
            (
                {"on": value},
                "retry.on",
                "must be a list of one or more of failure, timeout, oom, image",
            )
            for value in ([], "failure", ["Failure"], [None], [{}], [["oom"]], {"oom": 1}, 1)
        ),
    ],
)
def test_a_retry_that_is_none_is_told_by_its_field(retry, path, text):
    assert refusal(retry=retry) == f"Invalid JSON body: {path} {text}"
    assert step_refusal(retry=retry) == f"Invalid JSON body: steps[0].{path} {text}"


def test_a_callback_with_a_lone_surrogate_is_refused():
    for name in ("callback_url", "status_callback_url"):
        text = refusal(**{name: "http://example.org/\ud800"})
        assert text.startswith(f"Invalid request payload: {name} must be valid Unicode")


def test_a_hundred_problems_make_a_short_answer():
    text = refusal(steps=[{}] * 100)
    assert text.endswith("steps[9].image is required; and 90 more")


def test_a_refusal_never_quotes_a_value():
    secret = "hunter2"
    texts = [
        refusal(metadata={"A": secret + "\0"}),
        refusal(callback_url=f"http://user:{secret}@/"),
        refusal(status_callback_url=f"http://user:{secret}@/"),
        refusal(retry={"max": secret, "backoff_seconds": secret, "on": [secret]}),
        refusal(timestamp=secret),
        step_refusal(memory_limit=secret),
        step_refusal(network=f"{secret}!"),
        step_refusal(metadata={"A": [secret]}),
    ]
    assert secret not in "".join(texts)


@pytest.mark.parametrize("data", [None, [], "job", 1, [{"name": "job"}]])
def test_only_an_object_is_a_job(data):
    with pytest.raises(JobInvalid, match="expected an object"):
        load_job(data, job_id="7")


def test_a_null_step_lacks_its_image():
    assert refusal(steps=[None]) == "Invalid request payload: steps[0].image is required"
