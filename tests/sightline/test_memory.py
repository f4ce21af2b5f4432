"""How much memory may be taken."""

from __future__ import annotations

from pathlib import Path

from sightline.memory import available_bytes, give_back


def test_free_memory_is_the_least_of_machine_and_container(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    assert available_bytes(tmp_path) == 4000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("900000\n")
    (group / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) == 4000 * 1024
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert available_bytes(tmp_path) == 150_000
    old = group / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("2000\n")
    (old / "memory.usage_in_bytes").write_text("3000\n")
    assert available_bytes(tmp_path) == 0


def test_giving_back_keeps_what_is_in_use() -> None:
    kept = [bytes([number]) * 4096 for number in range(256)]
    give_back()
    assert all(block == bytes([number]) * 4096 for number, block in enumerate(kept))
