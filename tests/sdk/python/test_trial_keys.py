"""Trial keys and uses with `requests`, as its users write it.

Surroundings, beside those of scenario.py: ADMIN_URL, ADMIN_TOKEN.
"""

import os
import sys

import requests
from scenario import BASE_URL, run

ADMIN_URL = os.environ["ADMIN_URL"]
ADMIN = {"Authorization": f"Bearer {os.environ['ADMIN_TOKEN']}"}


def admin(method, path, **body):
    return requests.request(method, ADMIN_URL + path, headers=ADMIN, json=body or None, timeout=30)


def create(**wanted):
    answer = admin("POST", "/admin/keys", **wanted)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_key_is_used_until_it_is_exhausted():
    key = create(prefix="roc", quota=6, expiresAt="2099-12-31")["key"]
    session = requests.Session()
    session.headers["X-API-Key"] = key

    valid = session.get(BASE_URL + "/api/v1/validate", timeout=30)
    valid.raise_for_status()
    assert valid.json()["valid"] is True and valid.json()["remaining"] == 6, valid.text

    used = session.post(BASE_URL + "/api/v1/use", timeout=30)
    assert used.json()["amountUsed"] == 1 and used.json()["remaining"] == 5, used.text
    body = {"amount": 2, "reason": "a report", "metadata": {"页": 1}}
    used = session.post(BASE_URL + "/api/v1/use", json=body, timeout=30)
    assert used.json()["remaining"] == 3, used.text

    batch = [{"amount": 1, "reason": "one"}, {"amount": 2, "reason": "two"}]
    used = session.post(BASE_URL + "/api/v1/use/batch", json=batch, timeout=30)
    assert used.json()["success"] and [i["remaining"] for i in used.json()["items"]] == [2, 0], used.text

    quota = session.get(BASE_URL + "/api/v1/quota", timeout=30).json()
    assert (quota["quota"], quota["used"], quota["remaining"]) == (6, 6, 0), quota
    assert quota["key"] != key and quota["lastUsed"], quota

    # Parameters in the body of a GET, as some clients send them.
    history = session.get(BASE_URL + "/api/v1/usage/history", json={"limit": 3, "offset": 0}, timeout=30).json()
    assert history["total"] == 4 and history["limit"] == 3, history
    assert [e["reason"] for e in history["history"]] == ["two", "one", "a report"], history
    assert history["history"][2]["metadata"] == {"页": 1}, history

    refused = session.post(BASE_URL + "/api/v1/use", json={"amount": 1}, timeout=30)
    assert refused.status_code == 429, refused.text
    error = refused.json()["error"]
    assert error["code"] == "QUOTA_EXCEEDED" and "API_KEY_QUOTA_EXHAUSTED" in error["message"], error
    assert error["details"] == {"key": quota["key"], "remaining": 0, "requested": 1}, error


def test_an_operator_manages_keys():
    made = create(name="trial", max_calls=3, valid_days=7)
    listed = admin("GET", "/admin/keys").json()
    line = next(k for k in listed["keys"] if k["id"] == made["id"])
    assert line["name"] == "trial" and line["active"] and line["used"] == 0, line

    headers = {"Authorization": f"Bearer {made['key']}"}
    requests.post(BASE_URL + "/api/v1/use", json={"amount": 3}, headers=headers, timeout=30).raise_for_status()
    reset = admin("POST", "/admin/keys/reset", key=made["key"], newQuota=9).json()
    assert reset["success"] and reset["remaining"] == 9, reset
    assert admin("POST", "/admin/keys/disable", id=made["id"]).json()["success"]
    refused = requests.get(BASE_URL + "/api/v1/validate", headers=headers, timeout=30)
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "KEY_DISABLED", refused.text
    assert admin("POST", "/admin/keys/enable", id=made["id"]).json()["success"]
    assert requests.get(BASE_URL + "/api/v1/validate", headers=headers, timeout=30).ok

    usage = admin("GET", "/admin/usage", startDate="2026-01-01", endDate="2099-12-31").json()
    detail = next(d for d in usage["details"] if d["id"] == made["id"])
    assert detail["used"] == 3 and usage["summary"]["totalUsed"] >= 3, usage
    nobody = admin("POST", "/admin/keys/reset", key="roc_nobody")
    assert nobody.status_code == 404 and nobody.json()["error"]["code"] == "KEY_NOT_FOUND", nobody.text


run(sys.modules[__name__])
