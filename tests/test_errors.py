"""What an exception means for people and for programs."""

import json
import re

import pytest
import torch

import irn_cli.errors as module
from irn_cli.errors import Code, IrnError, UsageError, explain, one_line
from tests.helpers import ROOT

KINDS = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, IrnError)]


@pytest.mark.parametrize("kind", KINDS)
def test_our_errors_say_what_they_mean(kind: type[IrnError]) -> None:
    assert explain(kind("what happened")) == (kind.code, "what happened")
    assert kind.exit_status == (2 if kind is UsageError else 1)
    assert kind("what happened", Code.ARTIFACT).code is Code.ARTIFACT
    assert kind.code is not Code.ARTIFACT  # one error's code is not its kind's


def test_a_command_line_gets_a_hint() -> None:
    assert explain(IrnError("a.png exists already", Code.EXISTS))[1] == "a.png exists already (--force replaces it)"


def failed_allocation() -> Exception:
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        failed_allocation(),
        torch.OutOfMemoryError("CUDA out of memory."),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)"),
    ],
)
def test_a_failed_allocation_is_known_by_what_it_is(error: Exception) -> None:
    assert explain(error) == (Code.MEMORY, "not enough memory")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.png"), "a.png: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("odd"), "odd"),
    ],
)
def test_what_the_system_refuses_names_the_file(error: OSError, message: str) -> None:
    assert explain(error) == (Code.SYSTEM, message)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("no"), KeyError(1), AssertionError()])
def test_anything_else_is_a_bug_of_ours(error: Exception) -> None:
    code, message = explain(error)
    assert code is Code.BUG
    assert message.startswith(f"unexpected {type(error).__name__}")
    assert "report it" in message
    assert ": ;" not in message  # where the exception says nothing


def test_codes_are_those_of_the_published_schema() -> None:
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", code) for code in Code)
    text = (ROOT / "docs" / "batch.schema.json").read_text()
    assert set(Code) <= set(re.findall(r'"([a-z-]+)"', text))
    json.loads(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain ü 絵.png", "plain ü 絵.png"), ("a\nb\t\x1b[31m", r"a\nb\t\x1b[31m"), ("\udcff.png", r"\udcff.png")],
)
def test_a_message_is_one_printable_line(text: str, shown: str) -> None:
    assert one_line(text) == shown
