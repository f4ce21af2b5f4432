"""What `helm test` runs: ready, one search, and no answer without a key. Python's own library is enough."""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path


def ask(path, body=None, key=""):
    """The status and the body of an answer."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = "Bearer " + key
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(os.environ["CHECK_URL"] + path, data, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {}


def main():
    key_file = os.environ.get("CHECK_KEY_FILE")
    key = Path(key_file).read_text().strip() if key_file else ""
    needs_key = os.environ.get("CHECK_NEEDS_KEY") == "yes"
    search = ("/v1/text-to-image", {"text": "a dog on a beach", "k": 1})
    status, _ = ask("/readyz")
    if status != 200:
        sys.exit(f"/readyz says {status}, not 200: look at the pods' log")
    if needs_key:
        status, _ = ask(*search)
        if status != 401:
            sys.exit(f"a search without a key gets {status}, not 401: look at auth in the values")
    if key or not needs_key:
        status, answer = ask(*search, key=key)
        if status != 200 or "results" not in answer:
            sys.exit(f"a search gets {status}, not results: is the key in tests.keySecret among the service's?")
        sys.stdout.write("ready, and a search was answered\n")
    else:
        sys.stdout.write("ready; there was no search, for tests.keySecret is empty\n")


main()
