"""Which steps the guard keeps from the weights, and what it counts."""

import math
from dataclasses import replace

import pytest
import torch

from irn_cli.train.guard import Guard
from irn_cli.train.recipe import load_recipe

CPU = torch.device("cpu")


def guard(jump: float = 3.0, jump_after: int = 2) -> Guard:
    return Guard(replace(load_recipe("irn"), jump=jump, jump_after=jump_after), CPU)


def judge(guard: Guard, loss: float, norm: float = 1.0) -> float:
    return guard.judge(torch.tensor(loss), torch.tensor(norm)).item()


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1), (math.inf, 1), (1, math.nan), (1, math.inf)])
def test_what_is_not_finite_is_bad_from_the_first_step(loss: float, norm: float) -> None:
    one = guard()
    assert judge(one, loss, norm) == 1
    assert (one.seen, one.in_row, one.skipped, one.level) == (0, 1, 1, 0)
    assert judge(one, 5.0) == 0  # and leaves no trace in the level
    assert one.level == 5


def test_a_jump_is_bad_once_enough_good_steps_were_seen() -> None:
    one = guard(jump=3, jump_after=2)
    assert [judge(one, loss) for loss in (1, 100)] == [0, 0]
    level = one.level.item()
    assert level == pytest.approx(0.99 * 1 + 0.01 * 100)
    assert judge(one, 3.01 * level) == 1
    assert one.level == level  # a bad loss does not raise what losses are compared with
    assert judge(one, 2.99 * level) == 0


def test_bad_steps_are_counted_in_a_row_and_in_all() -> None:
    one = guard()
    for loss in (math.nan, math.nan, 1, math.nan):
        judge(one, loss)
    assert {name: tensor.item() for name, tensor in one.state().items() if name != "level"} == {
        "seen": 1, "in_row": 1, "skipped": 3,
    }  # fmt: skip
    one.count(torch.tensor(True))  # judged elsewhere: the discriminator's
    assert (one.in_row, one.skipped) == (2, 4)


def test_its_state_is_the_tensors_themselves() -> None:
    one = guard()
    one.state()["in_row"].fill_(5)  # so that a checkpoint can be copied into them
    judge(one, math.nan)
    assert one.in_row == 6
