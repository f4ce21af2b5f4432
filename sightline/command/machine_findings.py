"""What ``sightline doctor`` looks at on every machine: interpreter, torch, FAISS, arithmetic, memory, decoding, limits.

Each function looks at one thing, and takes as arguments what a test wants to change. torch and FAISS are loaded by the
functions that need them.
"""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import io
import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sightline import __version__
from sightline.command.finding import Finding, warning, wrong
from sightline.memory import available_bytes

_GIB = 2**30
_LEAST_MEMORY_BYTES = 3 * _GIB
"""Below this a ViT-B/32 (0.6 GB of weights, torch, request buffers) has no room for a collection."""
_FEWEST_FILES = 4096
"""The service's default of 2,048 connections, and its own files."""
_SLOW_DECODES = 60.0
"""Pictures a second and core: a core that is free decodes a 640x480 JPEG for ViT-B/32 in 2 to 8 ms."""
_MEASURED_SECONDS = 0.4
_PILLOW = "Install Pillow's own wheel: pip install --force-reinstall pillow."


def python(version: Sequence[int] = sys.version_info[:3], *, is_64_bit: bool = sys.maxsize > 2**32) -> Finding:
    says = f"{'.'.join(map(str, version))} on {platform.machine()}, Sightline {__version__}"
    if not is_64_bit:
        return wrong("python", f"{says}, 32 bits", "Install a 64-bit Python; torch has no other.")
    if tuple(version[:2]) > (3, 13):
        return warning("python", says, "Use Python 3.11 to 3.13, with which Sightline is tested.")
    return Finding("python", says)


def torch(nvidia: Path = Path("/proc/driver/nvidia/version")) -> Finding:
    """The device that ``auto`` takes, and whether a GPU lies idle."""
    import torch as library

    says = f"{library.__version__}, {library.get_num_threads()} threads"
    if library.cuda.is_available():
        properties = library.cuda.get_device_properties(0)
        facts = {"device": "cuda", "name": properties.name, "memory_bytes": properties.total_memory}
        says += f"; device cuda: {properties.name}, {properties.total_memory / _GIB:.0f} GiB"
        if properties.major < 7:
            return warning("torch", says, "Its compute capability is below 7.0: expect CPU speed, or set device=cpu.")
        return Finding("torch", says, facts=facts)
    says += "; device cpu"
    if nvidia.exists():
        build = "its build is for CPUs only" if library.version.cuda is None else "it cannot use it"
        return warning(
            "torch", f"{says}; there is an NVIDIA GPU and {build}",
            "Install Sightline with the extra gpu, a torch built for CUDA and a driver as new; give a container the "
            "GPU (docker: --gpus all).", device="cpu",
        )  # fmt: skip
    return Finding("torch", says, facts={"device": "cpu"})


def threads(environ: Mapping[str, str], num_cores: int | None = None, root: Path = Path("/")) -> Finding:
    """Whether torch will use the cores that there are, and no more than the container may."""
    cores = num_cores or len(os.sched_getaffinity(0))
    quota = _quota_cores(root)
    says = f"{cores} cores" + (f", of which the container may use {quota:g}" if quota else "")
    named = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in environ), None)
    if named and environ[named].isdigit() and int(environ[named]) < min(cores, quota or cores):
        return warning(
            "cores", f"{says}; {named}={environ[named]} keeps torch from using them all",
            f"Unset {named}; the service divides its cores by itself.", num_cores=cores,
        )  # fmt: skip
    if quota and quota < cores * 0.75 and named is None:
        return warning(
            "cores", f"{says}; torch starts {cores} threads, which wait for each other",
            f"Set OMP_NUM_THREADS={max(1, int(quota))}, or give the container whole cores (docker: --cpuset-cpus).",
            num_cores=cores, quota_cores=quota,
        )  # fmt: skip
    return Finding("cores", says, facts={"num_cores": cores, "quota_cores": quota})


def _quota_cores(root: Path) -> float | None:
    """The container's share of CPU time in cores; None without a limit."""
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            folder = root / "sys/fs/cgroup/cpu"
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def faiss(has_gpu: bool, installed: Sequence[str] | None = None) -> Finding:
    """Which FAISS there is, and whether it does what search relies on."""
    if installed is None:
        names = {str(one.metadata["Name"]).lower() for one in importlib.metadata.distributions()}
        installed = sorted(name for name in names if name.startswith("faiss"))
    if not installed:
        return wrong("faiss", "not installed", "Install one of the extras: pip install '.[cpu]' or '.[gpu]'.")
    if len(installed) > 1:
        return wrong(
            "faiss", f"{' and '.join(installed)} are both installed, and break each other",
            f"pip uninstall {' '.join(installed)}, then install one of the extras cpu and gpu.",
        )  # fmt: skip
    name = installed[0]
    says = f"{name} {importlib.metadata.version(name)}"
    fault = _search_fault()
    if fault:
        return wrong("faiss", f"{says}: {fault}", f"Install it again: pip install --force-reinstall {name}.")
    says += "; exact search, k beyond the rows and filters proven"
    if "gpu" in name and not has_gpu:
        return warning(
            "faiss",
            f"{says}; its GPU part finds no GPU",
            "On a machine without one install the extra cpu: it is smaller.",
        )
    if "gpu" not in name and has_gpu:
        says += "; exact search runs on the GPU through torch, inverted lists on the CPU"
    return Finding("faiss", says, facts={"distribution": name})


def _search_fault() -> str:
    """Three questions whose answers are known: the nearest row, the farthest when only it is allowed, k too large."""
    import numpy as np

    from sightline.index import VectorIndex

    rows = np.eye(8, dtype=np.float16)
    query = np.linspace(1, 0.1, 8, dtype=np.float32)[None]
    query /= np.linalg.norm(query)
    index = VectorIndex(rows)
    only_last = np.arange(8) == 7
    if index.search(query, 1).rows.tolist() != [[0]]:
        return "it does not find the nearest vector"
    if index.search(query, 3, only_last).rows.tolist() != [[7]]:
        return "it does not keep to a filter"
    if index.search(query, 20).rows.tolist() != [list(range(8))]:
        return "it does not return every row when asked for more"
    return ""


def arithmetic(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """bf16, AMX and int8: what makes a CPU two to five times as fast (docs/benchmarks.md)."""
    from sightline.encoder.precision import has_bf16_matrix_units

    try:
        flags = set(cpuinfo.read_text(encoding="ascii", errors="replace").split())
    except OSError:
        flags = set()
    units = [
        name for name in ("amx_bf16", "avx512_bf16", "amx_int8", "avx512_vnni", "avx512f", "avx2") if name in flags
    ]
    says = ", ".join(units) or "no vector units that are known"
    if has_bf16_matrix_units(cpuinfo):
        return Finding("arithmetic", f"{says}: towers run in bf16", facts={"units": units, "bf16": True})
    int8 = "amx_int8" in units or "avx512_vnni" in units
    return warning(
        "arithmetic", f"{says}: no bf16, so towers run in fp32, 2 to 4 times slower than with AMX",
        "Serve an int8 encoder (sightline encoder quantize), a smaller one, or use a GPU." if int8
        else "Use a smaller encoder, a newer CPU or a GPU.", units=units, bf16=False,
    )  # fmt: skip


def memory(root: Path = Path("/")) -> Finding:
    free = available_bytes(root)
    if free is None:
        return Finding("memory", "the system does not say how much is free")
    says = f"{free / _GIB:.1f} GiB can be had"
    if free < _LEAST_MEMORY_BYTES:
        return warning(
            "memory", says, "Give the machine or container at least 4 GiB, or use a smaller encoder.", free_bytes=free
        )
    return Finding("memory", says, facts={"free_bytes": free})


def decoding(slow: float = _SLOW_DECODES) -> Finding:
    """How fast one core decodes and resizes photos of 640x480 px, measured for under a second."""
    import numpy as np
    from PIL import Image, features

    from sightline.images import ImageLimits, PixelSpec, decode_image, to_pixels

    coarse = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    photo = io.BytesIO()
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(photo, "JPEG", quality=85)
    spec = PixelSpec(224, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    times: list[float] = []
    started = time.perf_counter()
    while not times or time.perf_counter() - started < _MEASURED_SECONDS:
        before = time.perf_counter()
        to_pixels(decode_image(photo.getvalue(), ImageLimits()), spec)
        times.append(time.perf_counter() - before)
    rate = 1 / float(np.median(times))
    says = f"{rate:.0f} photos of 640x480 px a second and core"
    missing = [name for name in ("jpg", "webp", "zlib") if not features.check(name)]
    if missing:
        return wrong("decoding", f"Pillow lacks {', '.join(missing)}", _PILLOW)
    if not features.check_feature("libjpeg_turbo"):
        return warning(
            "decoding", f"{says}; Pillow is built without libjpeg-turbo", _PILLOW, photos_per_second=round(rate)
        )  # fmt: skip
    if rate < slow:
        return warning(
            "decoding", f"{says}: slow, the encoder will wait", "See what else uses the cores, or take more of them.",
            photos_per_second=round(rate),
        )  # fmt: skip
    return Finding("decoding", says, facts={"photos_per_second": round(rate)})


def extras() -> Finding:
    """What is installed beside the base: nothing here is needed."""
    known = {"int8": "openvino", "quantising": "nncf", "traces": "opentelemetry.sdk", "SigLIP texts": "transformers"}
    found = {name: _is_installed(module) for name, module in known.items()}
    says = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in found.items())
    return Finding("extras", says, facts=dict(found))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    says = f"{soft:,} may be open at once"
    if soft != resource.RLIM_INFINITY and soft < _FEWEST_FILES:
        more = (
            f"ulimit -n {_FEWEST_FILES}" if hard == resource.RLIM_INFINITY or hard >= _FEWEST_FILES else "LimitNOFILE"
        )
        return warning(
            "files", f"{says}; the service's 2,048 connections need more",
            f"Raise the limit ({more}; docker: --ulimit nofile=65536), or lower max_connections.", soft_limit=soft,
        )  # fmt: skip
    return Finding("files", says, facts={"soft_limit": soft})


def port(host: str, number: int) -> Finding:
    """Whether the service could listen there. Nothing is accepted; the port is free again at once."""
    says = f"{host}:{number}"
    try:
        family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family[0], family[1]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(family[4])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return warning(
                "port",
                f"{says} is in use",
                "Take another one (sightline serve --port 8001), or stop what listens there.",
            )
        if error.errno == errno.EACCES:
            return wrong("port", f"{says} may not be taken", "Ports below 1024 need rights: take one above, like 8000.")
        return wrong("port", f"{says} is no address of this machine", "Name one of its addresses, or 0.0.0.0 for all.")
    return Finding("port", f"{says} is free")


def environment(environ: Mapping[str, str]) -> Finding:
    """Variables that are ours, and those that Kubernetes sets for a service that is called sightline."""
    ours = sorted(name for name in environ if name.startswith("SIGHTLINE_"))
    links = [name for name in ours if environ[name].startswith("tcp://") or name.startswith("SIGHTLINE_SERVICE_")]
    if links:
        return wrong(
            "environment", f"{', '.join(links)} come from Kubernetes and are read as settings",
            "Set enableServiceLinks: false in the pod, as the Helm chart does.",
        )  # fmt: skip
    return Finding("environment", ", ".join(ours) or "no SIGHTLINE_ variables")
