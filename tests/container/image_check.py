"""``make image-check``: build the CPU service image for real and run it as a cluster would, with no container engine.

Debian's buildah builds it with ``--isolation chroot`` on a base made by debootstrap. The image then runs as uid 10001
in namespaces of its own, as process 1, on a root that is mounted read-only; it answers a text-to-image request, and
SIGTERM drains it. Needs root, buildah, debootstrap and about 20 GB of disk; some minutes. What is built stays in
--store, so a second run is short; remove that folder to be rid of everything.

Where torch's own index cannot be reached, the ordinary one is taken, whose torch carries CUDA libraries; that is said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BASE = "localhost/sightline-base:bookworm"
IMAGE = "localhost/sightline-service:check"
UID = 10001
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
START_SECONDS = 600.0
STOP_SECONDS = 30.0


class Buildah:
    """buildah with a store of its own, which no other container tool on the machine sees."""

    def __init__(self, store: Path) -> None:
        self._options = ["--root", str(store / "storage"), "--runroot", str(store / "run")]

    def __call__(self, *arguments: str, quiet: bool = True) -> str:
        """Run a command and return what it printed; its output is shown as it comes unless ``quiet``."""
        done = subprocess.run(
            ["buildah", *self._options, *arguments], stdout=subprocess.PIPE if quiet else None, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"image-check: buildah {arguments[0]} failed; what it said is above.")
        return (done.stdout or "").strip()

    def has(self, image: str) -> bool:
        listed = json.loads(self("images", "--json") or "[]") or []
        return any(image in (entry.get("names") or []) for entry in listed)


def say(text: str) -> None:
    sys.stdout.write(f"image-check: {text}\n")
    sys.stdout.flush()


def require_tools() -> None:
    missing = [name for name in ("buildah", "debootstrap", "unshare", "chroot") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        raise SystemExit(
            f"image-check: needs root and {', '.join(missing) or 'its tools'}; on Debian: "
            "apt-get install buildah debootstrap fuse-overlayfs, then run it as root."
        )


def make_base(buildah: Buildah, store: Path, mirror: str) -> None:
    """Debian with Python and this machine's certificate authorities, and nothing else."""
    if buildah.has(BASE):
        say(f"base: {BASE} is there")
        return
    rootfs = store / "rootfs"
    shutil.rmtree(rootfs, ignore_errors=True)
    say(f"base: debootstrap from {mirror}")
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm",
         str(rootfs), mirror],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    shutil.copy(CERTIFICATES, rootfs / CERTIFICATES.relative_to("/"))
    (rootfs / "etc/pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\ntimeout = 180\n")
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(rootfs), "/")
    buildah("commit", "--quiet", "--rm", container, BASE)
    shutil.rmtree(rootfs)


def reachable(index: str) -> bool:
    try:
        with urllib.request.urlopen(index + "/torch/", timeout=10):
            return True
    except (OSError, urllib.error.URLError):
        return False


def build(buildah: Buildah, target: str) -> bool:
    """Build ``target`` of the Dockerfile; whether it is free of CUDA libraries."""
    index = os.environ.get("TORCH_INDEX", "")
    plain = not index or not reachable(index)
    if plain:
        say("TORCH_INDEX names no index that answers: taking the ordinary one, whose torch carries CUDA libraries")
    started = time.monotonic()
    buildah(
        "bud", "--isolation", "chroot", "--network", "host", "--format", "docker", "--layers", "--target", target,
        "--build-arg", f"BASE={BASE.partition(':')[0]}", "--build-arg", f"BASE_TAG={BASE.partition(':')[2]}",
        "--build-arg", f"TORCH_INDEX={'' if plain else index}",
        "--tag", IMAGE if target == "service" else f"localhost/sightline-{target}:check", str(ROOT), quiet=False,
    )  # fmt: skip
    say(f"built {target} in {time.monotonic() - started:.0f} s")
    return not plain


def make_collection(folder: Path) -> None:
    """A collection of six small pictures and the bundle of its tiny encoder, readable by everyone."""
    sys.path.insert(0, str(ROOT))
    from sightline.encoder import write_bundle
    from tests.pictures import encoded, textured
    from tests.tiny import tiny_checkpoint

    shutil.rmtree(folder, ignore_errors=True)
    (folder / "pictures").mkdir(parents=True)
    for number in range(6):
        (folder / "pictures" / f"{number}.jpg").write_bytes(encoded(textured((90, 60), number), "JPEG"))
        (folder / "pictures" / f"{number}.txt").write_text(f"picture {number}")
    write_bundle(tiny_checkpoint(), folder / "bundle")
    subprocess.run(
        [sys.executable, "-m", "sightline", "index", "build", "--encoder", str(folder / "bundle"),
         "--source", str(folder / "pictures"), "--out", str(folder / "photos")],
        check=True, cwd=ROOT,
    )  # fmt: skip
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)


def check_contents(root: Path, config: dict[str, Any], *, free_of_cuda: bool) -> None:
    assert config["User"] == f"{UID}:{UID}", config["User"]
    assert config["Entrypoint"] == ["sightline"], config["Entrypoint"]
    assert config["StopSignal"] == "SIGTERM", config["StopSignal"]
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "python3"], config["Healthcheck"]
    for tool in ("gcc", "cc", "g++", "make", "curl", "wget", "git"):
        assert not any((root / folder / tool).exists() for folder in ("usr/bin", "usr/local/bin")), tool
    for package in ("training", "indexer"):
        assert not (root / "opt/code" / package).exists(), package
    cuda = [path.name for path in root.glob("opt/sightline/lib/python3*/site-packages/nvidia*")]
    assert not (free_of_cuda and cuda), cuda
    no_cuda = ", no CUDA" if free_of_cuda else "; CUDA's libraries are in it"
    say(f"contents: user, entry point, health check; no compiler, no curl{no_cuda}")


@contextlib.contextmanager
def running(root: Path, collection: Path, config: dict[str, Any], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The image's own command as process 1 of its namespaces, uid 10001, its root and the collection read-only."""
    env = dict(entry.split("=", 1) for entry in config["Env"])
    env |= {
        "SIGHTLINE_PORT": str(port), "SIGHTLINE_HOST": "127.0.0.1", "SIGHTLINE_COLLECTION": "/collections/photos",
        "SIGHTLINE_ENCODER": "/collections/bundle", "SIGHTLINE_LOG_FORMAT": "json",
    }  # fmt: skip
    script = f"""
        mount --bind {root} {root}
        mount -t proc proc {root}/proc
        mount --rbind /dev {root}/dev
        mount -t tmpfs -o mode=1777 tmpfs {root}/tmp
        mount --bind {collection} {root}/collections && mount -o remount,bind,ro {root}/collections
        mount -o remount,bind,ro {root}
        exec chroot --userspec={UID}:{UID} --groups= {root} "$@"
    """
    command = [
        "unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--propagation", "private",
        "sh", "-euc", script, "start", *config["Entrypoint"], *config["Cmd"],
    ]  # fmt: skip
    outer = dict(os.environ)
    process = subprocess.Popen(command, env={**env, "PATH": f"{env['PATH']}:{outer['PATH']}"})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def get(url: str, body: Any = None) -> tuple[int, Any]:
    """The status and JSON of an answer; status 0 where nobody answers."""
    request = urllib.request.Request(
        url, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None
    except OSError:
        return 0, None


def exercise(process: subprocess.Popen[bytes], url: str) -> None:
    started = time.monotonic()
    while get(f"{url}/readyz")[0] != 200:
        if process.poll() is not None or time.monotonic() - started > START_SECONDS:
            raise SystemExit("image-check: the service did not become ready; what it said is above.")
        time.sleep(0.2)
    say(f"ready after {time.monotonic() - started:.1f} s")
    inside = service_pid(process.pid)
    status = Path(f"/proc/{inside}/status").read_text()
    assert f"\nUid:\t{UID}\t{UID}\t{UID}\t{UID}\n" in status, status
    assert status.split("NSpid:")[1].split("\n")[0].split()[-1] == "1", status
    mounts = [line.split() for line in Path(f"/proc/{inside}/mountinfo").read_text().splitlines()]
    (whole,) = [fields for fields in mounts if fields[4] == "/"]
    assert "ro" in whole[5].split(","), whole
    say(f"process 1, uid {UID}, read-only root")
    code, answer = get(f"{url}/v1/text-to-image", {"text": "picture 3", "k": 3})
    assert code == 200, code
    assert len(answer["results"]) == 3, answer
    say("text-to-image answered")
    os.kill(inside, signal.SIGTERM)
    time.sleep(0.3)
    assert get(f"{url}/readyz")[0] == 503
    assert get(f"{url}/v1/text-to-image", {"text": "while it drains"})[0] == 200
    code = process.wait(timeout=STOP_SECONDS)
    assert code == 0, code
    say("SIGTERM: not ready at once, answered on, exit code 0")


def service_pid(outer: int) -> int:
    """The process that unshare has forked: it became the service by exec."""
    return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the CPU service image and run it hardened.")
    parser.add_argument("--store", type=Path, default=ROOT / "build" / "image-check", help="Where everything is kept.")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", help="The Debian mirror of the base.")
    parser.add_argument("--base-only", action="store_true", help="Stop when the base image is there.")
    options = parser.parse_args()
    require_tools()
    store = options.store.resolve()
    store.mkdir(parents=True, exist_ok=True)
    buildah = Buildah(store)
    make_base(buildah, store, options.mirror)
    if options.base_only:
        return
    free_of_cuda = build(buildah, "service")
    make_collection(store / "collections")
    container = buildah("from", IMAGE)
    try:
        root = Path(buildah("mount", container))
        config = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]
        size = subprocess.run(["du", "-sxm", str(root)], capture_output=True, text=True, check=True).stdout.split()[0]
        say(f"size unpacked: {int(size):,} MB")
        check_contents(root, config, free_of_cuda=free_of_cuda)
        port = free_port()
        with running(root, store / "collections", config, port) as process:
            exercise(process, f"http://127.0.0.1:{port}")
    finally:
        buildah("rm", container)
    say("passed")


if __name__ == "__main__":
    main()
