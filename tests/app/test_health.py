from datetime import UTC, datetime


def test_ping_answers_in_the_words_of_all_earlier_versions(client):
    answer = client.get("/ping")
    assert answer.status_code == 200
    assert answer.mimetype == "application/json"
    assert answer.json["message"] == "pong"
    assert answer.json["status"] == "ok"


def test_ping_tells_the_time_in_utc(client):
    timestamp = client.get("/ping").json["timestamp"]
    assert timestamp.endswith("Z")
    assert datetime.fromisoformat(timestamp).tzinfo == UTC
