import pytest
from flask.testing import FlaskClient
from recording_queue import RecordingQueue

from app.factory import create_api
from app.settings import ApiSettings


@pytest.fixture
def queue() -> RecordingQueue:
    return RecordingQueue()


@pytest.fixture
def client(queue: RecordingQueue) -> FlaskClient:
    """Of an API without a key."""
    return create_api(queue, ApiSettings()).test_client()


@pytest.fixture
def guarded(queue: RecordingQueue) -> FlaskClient:
    """Of an API whose key is `s3cret`."""
    return create_api(queue, ApiSettings(auth_key="s3cret")).test_client()
