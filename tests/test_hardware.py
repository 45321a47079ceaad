"""What a machine has, and what a command line may ask of it."""

import sys
from pathlib import Path

import pytest
import torch

from irn_cli import hardware
from irn_cli.errors import UsageError
from irn_cli.hardware import check_device, may_have_gpu, multiplies_bfloat16, parse_memory, usable_memory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("500 MB", 5 * 10**8),
        ("1.5GiB", 3 * 2**29),
        ("64k", 64_000),
        ("123", 123),
        (" 1tb ", 10**12),
    ],
)
def test_memory_sizes(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2 XB", "1.2.3MB", "0x10", "i", "5iB"])
def test_what_is_no_memory_size(text: str) -> None:
    with pytest.raises(UsageError, match="memory size"):
        parse_memory(text)


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices_names(name: str) -> None:
    check_device(name)


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:00", "cuda:200", "cuda:1:2", "cpu:0"])
def test_what_is_no_device(name: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        check_device(name)


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("flags\t\t: fpu avx512f", False),
        ("model name\t: avx512_bf16", False),
        ("flags\t\t: xavx512_bf16x", False),
    ],
)
def test_bfloat16_is_known_by_the_processors_flags(flags: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"processor\t: 0\n{flags}\n")
    assert multiplies_bfloat16.__wrapped__() is native


def test_where_flags_cannot_be_read_bfloat16_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert not multiplies_bfloat16.__wrapped__()


def test_a_gpu_is_possible_where_a_driver_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_DRIVERS", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr(sys, "platform", "linux")
    assert not may_have_gpu()
    (tmp_path / "nvidiactl").write_text("")
    assert may_have_gpu()
    (tmp_path / "nvidiactl").unlink()
    monkeypatch.setattr(sys, "platform", "darwin")  # where only torch can say
    assert may_have_gpu()


def test_whatever_torch_finds_was_possible() -> None:
    assert may_have_gpu() or not torch.cuda.is_available()


def test_usable_memory_is_a_plausible_number(tmp_path: Path) -> None:
    assert 2**28 < usable_memory() <= usable_memory(tmp_path) < 2**50


@pytest.mark.parametrize(
    ("said", "files", "expected"),
    [
        (
            "0::/job/step",
            {"job/step/memory.max": "max", "job/memory.max": "5000000", "memory.max": "9000000"},
            5_000_000,
        ),
        ("0::/docker/abc", {"memory.max": "6000000"}, 6_000_000),  # a container sees its own group as the root
        ("4:cpu:/\n3:memory:/a/b", {"memory/a/b/memory.limit_in_bytes": "7000000"}, 7_000_000),
        ("4:cpu:/\n3:memory:/a/b", {"memory/a/b/memory.limit_in_bytes": str(2**63 - 4096)}, None),
    ],
)
def test_a_container_or_a_job_may_have_less(
    said: str, files: dict[str, str], expected: int | None, tmp_path: Path
) -> None:
    for name, text in {"proc/self/cgroup": said, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert usable_memory(tmp_path) == (expected or usable_memory(tmp_path / "nowhere"))
