"""Devices and precision by name."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from irn_cli.device import ieee_float32, multiplied_as, resolve_device, resolve_precision, untuned_convolutions
from irn_cli.errors import DeviceError, UsageError


def test_devices() -> None:
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="unknown device"):
        resolve_device("gpu")
    with pytest.raises(DeviceError, match="cuda:99"):
        resolve_device("cuda:99")


def test_precisions() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("fp32", cpu) == "fp32"
    assert resolve_precision("bf16", cpu) == "bf16"
    assert resolve_precision("auto", cpu) in ("fp32", "bf16")
    with pytest.raises(UsageError, match="fp16"):
        resolve_precision("fp16", cpu)


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((12, 1), "bf16")])
def test_bfloat16_is_chosen_on_gpus_that_multiply_it(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert resolve_precision("auto", torch.device("cuda:0")) == precision


@pytest.fixture
def switches() -> Iterator[list[Any]]:
    """Where torch is told, by the newer names, whether it may take shortcuts."""
    found = [torch.backends.cudnn.conv, torch.backends.cuda.matmul, torch.backends.mkldnn.conv]
    before = [switch.fp32_precision for switch in found]
    yield found
    for switch, value in zip(found, before, strict=True):
        switch.fp32_precision = value


@pytest.mark.parametrize("value", ["tf32", "ieee"])
def test_float32_takes_no_shortcuts_inside_the_scope_and_those_as_before_after_it(
    switches: list[Any], value: str
) -> None:
    for switch in switches:
        switch.fp32_precision = value
    with pytest.raises(ZeroDivisionError), ieee_float32():
        assert [switch.fp32_precision for switch in switches] == ["ieee"] * 3
        raise ZeroDivisionError
    assert [switch.fp32_precision for switch in switches] == [value] * 3


def test_no_shortcut_is_inherited_from_torchs_general_setting(
    switches: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends, "fp32_precision", "tf32")
    assert torch.backends.mkldnn.conv.fp32_precision == "tf32"
    with ieee_float32():
        assert [switch.fp32_precision for switch in switches] == ["ieee"] * 3


def test_the_older_name_works_as_before_after_the_scope() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with ieee_float32():
        pass
    assert before == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)


def test_of_several_scopes_the_last_to_end_restores(switches: list[Any]) -> None:
    """As of several threads, of which the first to begin may be the first to end."""
    switches[0].fp32_precision = "tf32"
    first, second = ieee_float32(), ieee_float32()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert switches[0].fp32_precision == "ieee"
    second.__exit__(None, None, None)
    assert switches[0].fp32_precision == "tf32"


def test_the_search_for_fast_convolutions_pauses_inside_the_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with pytest.raises(ZeroDivisionError), untuned_convolutions():
        assert not torch.backends.cudnn.benchmark
        raise ZeroDivisionError
    assert torch.backends.cudnn.benchmark


def test_bfloat16_is_multiplied_as_float32_only_on_a_processor_that_has_no_products_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("irn_cli.device.multiplies_bfloat16", lambda native=native: native)
        assert multiplied_as(torch.bfloat16, cpu) == expected
        assert multiplied_as(torch.bfloat16, cuda) == torch.bfloat16
        assert multiplied_as(torch.float64, cpu) == torch.float64


def test_cuda_is_the_current_one_of_several_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:1")
    assert resolve_device("cuda:2") == torch.device("cuda:2")


def test_a_macs_gpu_is_taken_where_it_is_asked_for_and_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    device = resolve_device("mps")
    assert device == torch.device("mps")
    assert resolve_device("auto").type != "mps"
    monkeypatch.setattr("irn_cli.device.multiplies_bfloat16", lambda: True)  # the processor may: the GPU is asked
    assert resolve_precision("auto", device) == resolve_precision("fp32", device) == "fp32"
    with pytest.raises(UsageError, match="on mps the precision is fp32"):
        resolve_precision("bf16", device)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no device mps: it needs a Mac"):
        resolve_device("mps")
