"""What the Python scripts share: their surroundings, and a runner that names what fails.

Surroundings come from environment variables:
BASE_URL, API_KEY     the proxy (or the fake itself) and a key that may do everything
LEDGER_URL            the fake's ledger
BEHIND_PROXY          "1" when there is a proxy in between; then also
EMPTY_KEY             a key whose quota is used up
DISABLED_KEY          a key that was disabled
NARROW_KEY            a key that may not use the models of these scripts
"""

import json
import os
import sys
import traceback
import urllib.request

BASE_URL = os.environ["BASE_URL"]
API_KEY = os.environ["API_KEY"]
BEHIND_PROXY = os.environ.get("BEHIND_PROXY") == "1"
# More than the proxy takes in these tests.
LARGE = "x" * (3 << 20)
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def ledger():
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(os.environ["LEDGER_URL"]) as answer:
        return json.load(answer)


def upstream_requests():
    return ledger()["requests"]


def raised(kind, call):
    """The error of `kind` that `call` raises, and how many requests reached the provider by it."""
    before = upstream_requests()
    try:
        call()
    except kind as error:
        return error, upstream_requests() - before
    raise AssertionError(f"{kind.__name__} was expected")


def run(module):
    failed = 0
    # Scenarios of the other surroundings are not part of this run.
    other = "test_direct_" if BEHIND_PROXY else "test_proxy_"
    found = [(n, f) for n, f in vars(module).items() if n.startswith("test_")]
    scenarios = [(n, f) for n, f in found if not n.startswith(other)]
    for name, scenario in scenarios:
        try:
            scenario()
            print("ok  ", name)
        except Exception:
            failed += 1
            print("FAIL", name)
            traceback.print_exc(file=sys.stdout)
    print(f"{len(scenarios) - failed} of {len(scenarios)} scenarios passed, behind a proxy: {BEHIND_PROXY}")
    sys.exit(1 if failed or not scenarios else 0)
