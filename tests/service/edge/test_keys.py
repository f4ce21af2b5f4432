"""Keys: what a file may say, how one is sent, who passes, and that no path is forgotten (B21)."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Route

from service.edge.intake import PROBE_PATHS
from service.edge.keys import Gate, KeyFile, check_exposure, credentials, needs_key, parse_keys
from service.settings import load_settings
from sightline.errors import SettingError
from tests.service.conftest import MakeService, Service
from tests.service.edge.conftest import ADMIN_KEY, API_KEY

NOWHERE = Path("/nowhere/keys")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def basic(key: str, user: str = "anybody") -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()}


def check_unauthenticated(response: httpx.Response) -> None:
    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated"), response.text
    assert response.headers["content-type"] == "application/problem+json"
    challenges = response.headers.get_list("www-authenticate")
    assert [one.split()[0] for one in challenges] == ["Bearer", "Basic"]


# The file


def test_names_comments_and_blank_lines() -> None:
    keys = parse_keys(f"# a comment\n\n shop : {API_KEY} \n{ADMIN_KEY}\r\n", NOWHERE)
    assert [key.name for key in keys] == ["shop", "line-4"]
    assert API_KEY not in repr(keys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        ("secret123", "line 1 of /nowhere/keys is shorter than 16"),
        (f"{API_KEY}\nshop: secret123\n", "line 2"),
        ("secret key with blanks", "Line 1"),
        ("sécret-0123456789012", "Line 1"),
        (f"a b: {API_KEY}", "Line 1"),
        (f"shop: {API_KEY}: more", "Line 1"),
    ],
)
def test_a_file_that_is_wrong_is_refused_and_never_quoted(text: str, said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        parse_keys(text, NOWHERE)
    assert "secret" not in caught.value.message
    assert API_KEY not in caught.value.message


@pytest.mark.parametrize("content", [None, b"\xff\xfe" * 20, b"x" * 1_100_000], ids=["missing", "not text", "huge"])
def test_a_file_that_cannot_be_read_is_an_error_at_start(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(SettingError, match=str(tmp_path / "keys")):
        KeyFile(tmp_path / "keys")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


def test_keys_rotate_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    path.write_text(f"old: {API_KEY}\n")
    keys = KeyFile(path, Clock())

    def found(key: str) -> str | None:
        key_found = keys.find([key.encode()])
        return key_found.name if key_found else None

    path.write_text(f"old: {API_KEY}\nnew: {ADMIN_KEY}\n")
    assert (found(API_KEY), found(ADMIN_KEY)) == ("old", "new")
    replacement = tmp_path / "keys.next"  # as Kubernetes and editors do it: another file under the same name
    replacement.write_text(f"new: {ADMIN_KEY}\n")
    replacement.replace(path)
    assert (found(API_KEY), found(ADMIN_KEY)) == (None, "new")
    for breakage in (lambda: path.write_text("short\n"), path.unlink):
        caplog.clear()
        breakage()
        assert [found(ADMIN_KEY) for _ in range(3)] == ["new"] * 3
        assert [record.levelno for record in caplog.records] == [logging.ERROR], "logged once"
    path.write_text(f"back: {API_KEY}\n")
    assert (found(API_KEY), found(ADMIN_KEY)) == ("back", None)


def test_the_file_is_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{API_KEY}\n")
    keys = KeyFile(path, lambda: 0.0)
    path.write_text(f"{ADMIN_KEY}\n")
    assert keys.find([ADMIN_KEY.encode()]) is None


# What is sent


@pytest.mark.parametrize(
    "headers",
    [
        bearer(API_KEY),
        {"authorization": f"bearer   {API_KEY} "},
        {"x-api-key": API_KEY},
        basic(API_KEY),
        basic(API_KEY, user=""),
        {"x-api-key": API_KEY, "authorization": "Bearer the-proxys-own-token"},
    ],
)
def test_a_key_in_every_form(locked: Service, headers: dict[str, str]) -> None:
    assert locked.get("/v1/limits", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"params": {"api_key": API_KEY, "key": API_KEY, "access_token": API_KEY}},
        {"headers": {"cookie": f"key={API_KEY}"}},
        {"headers": bearer("")},
        {"headers": bearer("x")},
        {"headers": bearer(API_KEY[:-1])},
        {"headers": bearer(API_KEY + "0")},
        {"headers": bearer("x" * 20_000)},
        {"headers": {"authorization": API_KEY}},
        {"headers": {"authorization": f"Digest {API_KEY}"}},
        {"headers": {"authorization": b"Bearer \xff\xe9\x80 key"}},
        {"headers": {"x-api-key": "schlüssel-ключ-鍵-0123456789".encode()}},
        {"headers": {"authorization": "Basic !!!"}},
        {"headers": {"authorization": b"Basic \xff\xff"}},
        {"headers": {"authorization": "Basic " + base64.b64encode(API_KEY.encode()).decode()}},
        {"headers": basic("falsch-ß")},
        {"auth": (API_KEY, "")},
    ],
)
def test_what_is_no_key_is_a_401(locked: Service, options: dict[str, Any]) -> None:
    """B21: short, long, non-ASCII, missing, in the query string."""
    check_unauthenticated(locked.get("/v1/limits", **options))


def test_a_key_is_not_text() -> None:
    sent = Headers(raw=[(b"authorization", b"Bearer \xe9"), (b"x-api-key", b"\xff")])
    assert credentials(sent) == [b"\xff", b"\xe9"]


# Who passes


def walk(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Method and path of each route, those of included routers too."""
    for route in routes:
        if isinstance(route, Route):
            for method in route.methods or ():
                yield method, route.path.replace("{item_id}", "000-red").replace("{name}", "x")
        else:
            yield from walk(route.original_router.routes)  # type: ignore[attr-defined]


def test_every_route_needs_a_key_but_the_probes(locked: Service) -> None:
    walked = set(walk(locked.app.routes))
    assert len(walked) >= 18
    for method, path in sorted(walked):
        response = locked.request(method, path)
        if path in PROBE_PATHS:
            assert response.status_code == 200, path
        else:
            assert response.status_code == 401, (method, path)


@pytest.mark.parametrize(
    "path",
    ["/v1/nothing", "/", "/openapi.json", "/metrics", "/docs", "//livez", "/livez/", "/LIVEZ", "/livez%20", "/%2e"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "TRACE", "BREW"])
def test_what_is_no_route_needs_one_too(locked: Service, method: str, path: str) -> None:
    assert locked.request(method, path).status_code == 401


def test_a_refusal_comes_before_the_body_is_read(locked: Service) -> None:
    refused = locked.post("/v1/image-to-image", headers={"content-length": str(2**40)}, content=b"")
    check_unauthenticated(refused)
    assert locked.metric("sightline_rejected_total", reason="unauthenticated") == 1


def test_openais_clients_hear_of_it_in_their_shape(locked: Service) -> None:
    response = locked.post("/v1/embeddings", json={"input": "red"})
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "unauthenticated"
    assert response.json()["error"]["type"] == "invalid_request_error"


ADMIN = "/v1/admin/nothing-here"


@pytest.mark.parametrize(
    ("keys", "settings", "sent", "status"),
    [
        ("both", {}, None, 401),
        ("both", {}, API_KEY, 403),
        ("both", {}, ADMIN_KEY, 404),
        ("api", {}, API_KEY, 403),
        ("admin", {}, None, 401),
        ("admin", {}, ADMIN_KEY, 404),
        ("admin", {"allow_unauthenticated": True}, None, 401),
        ("none", {}, None, 404),
        ("none", {"host": "0.0.0.0", "allow_unauthenticated": True}, None, 403),
    ],
)
@pytest.mark.parametrize("path", [ADMIN, "/v1/admin", "/v1/admin/"])
def test_who_may_change_the_service(
    make_service: MakeService,
    files: dict[str, Path],
    keys: str,
    settings: Any,
    sent: str | None,
    status: int,
    path: str,
) -> None:
    given = {name: file for name, file in files.items() if keys == "both" or name.startswith(keys)}
    service = make_service(**given, **settings)
    response = service.post(path, headers=bearer(sent) if sent else {})
    assert response.status_code == status, response.text
    if status == 403:
        assert "admin" in response.json()["detail"]


def test_an_admin_key_opens_everything(locked: Service) -> None:
    assert locked.get("/v1/limits", headers=bearer(ADMIN_KEY)).status_code == 200


def test_admin_keys_alone_can_leave_searching_open(make_service: MakeService, files: dict[str, Path]) -> None:
    admin = {"admin_keys_file": files["admin_keys_file"]}
    assert make_service(**admin).get("/v1/limits").status_code == 401
    assert make_service(**admin, allow_unauthenticated=True).get("/v1/limits").status_code == 200


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "127.0.0.1:8000", 404),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", 404),
        ("http://localhost", "localhost", 404),
        ("http://[::1]:8000", "[::1]:8000", 404),
        ("https://listed.example", "127.0.0.1:8000", 404),
        ("https://evil.example", "127.0.0.1:8000", 403),
        ("http://evil.example:8000", "evil.example:8000", 403),  # a foreign name that was pointed at this machine
        ("null", "127.0.0.1:8000", 403),
        ("http://[", "127.0.0.1:8000", 403),
    ],
)
def test_pages_of_others_may_not_change_the_service(
    make_service: MakeService, origin: str | None, host: str, status: int
) -> None:
    service = make_service(cors_origins="https://listed.example")
    headers = {"host": host} | ({"origin": origin} if origin else {})
    assert service.post(ADMIN, headers=headers).status_code == status


def test_the_gate_names_the_holder(files: dict[str, Path]) -> None:
    gate = Gate(load_settings(files))

    def name_of(key: str) -> str | None:
        return gate.check({"type": "http", "path": "/", "headers": [(b"x-api-key", key.encode())]})

    assert (name_of(API_KEY), name_of(ADMIN_KEY)) == ("shop", "line-1")


# Exposure


@pytest.mark.parametrize(
    ("host", "given", "refused"),
    [
        ("127.0.0.1", {}, False),
        ("localhost", {}, False),
        ("0.0.0.0", {}, True),
        ("192.168.1.5", {}, True),
        ("::", {}, True),
        ("0.0.0.0", {"allow_unauthenticated": True}, False),
        ("0.0.0.0", {"api_keys_file": "keys"}, False),
        ("0.0.0.0", {"admin_keys_file": "keys"}, False),
    ],
)
def test_others_are_listened_to_with_keys_only(host: str, given: Any, refused: bool) -> None:
    settings = load_settings({"host": host, **given})
    if not refused:
        check_exposure(settings)
        return
    with pytest.raises(SettingError, match=r"api_keys_file.*allow_unauthenticated"):
        check_exposure(settings)


def test_keys_are_asked_for_even_where_none_are_demanded() -> None:
    assert needs_key(load_settings({"api_keys_file": "keys", "allow_unauthenticated": True}))


# The description


def test_the_document_says_where_a_key_is_needed(locked: Service, service: Service) -> None:
    document = locked.get("/openapi.json", headers=bearer(API_KEY)).json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey", "basic"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) is (path not in PROBE_PATHS), path
            assert ("401" in operation["responses"]) is (path not in PROBE_PATHS), path
            assert path.startswith("/v1/admin/") <= ("403" in operation["responses"]), path
    open_document = service.get("/openapi.json").json()
    assert not any("security" in one for operations in open_document["paths"].values() for one in operations.values())
