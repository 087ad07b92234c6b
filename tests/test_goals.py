"""Goals: when they hold, and that their loss leads there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import funnybone as fb
from funnybone.chance import Chance
from funnybone.goals import AnythingBut, AnythingButTop, Specified, parse


@given(seed=st.integers(0, 2**31), n=st.integers(1, 5))
def test_anything_but_top_is_about_rank(seed, n):
    logits = torch.randn(8, 7, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(8) % 7
    rank = (logits > logits.gather(1, labels[:, None])).sum(1)
    goal = AnythingButTop(n)
    assert torch.equal(goal.achieved(logits, labels), rank >= n)
    assert torch.equal(goal.margin(logits, labels) < 0, rank >= n)
    assert (goal.loss(logits, labels) <= goal.margin(logits, labels)).all()
    if n == 1:
        assert torch.equal(AnythingBut().achieved(logits, labels), rank >= 1)
        assert torch.equal(AnythingBut().loss(logits, labels), goal.loss(logits, labels))


@given(seed=st.integers(0, 2**31))
def test_a_drawn_target_is_never_the_truth(seed):
    labels = torch.arange(40) % 5
    targets = Specified().reference(labels, 5, Chance(torch.arange(40) + seed))
    assert (targets != labels).all()
    assert ((targets >= 0) & (targets < 5)).all()


@pytest.mark.parametrize("goal", [AnythingBut(), AnythingButTop(2), Specified(3)])
def test_descending_the_loss_reaches_the_goal(goal):
    labels = torch.zeros(4, dtype=torch.long)
    reference = goal.reference(labels, 5)
    logits = torch.tensor([[5.0, 1, 0, -1, -2]]).repeat(4, 1).requires_grad_(True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(goal.loss(logits, reference).sum(), logits)
        logits = (logits - 0.1 * gradient / gradient.norm()).detach().requires_grad_(True)
        if goal.achieved(logits, reference).all():
            return
    pytest.fail("the loss does not lead to the goal")


def test_more_others_than_there_are_is_refused():
    for call in (AnythingButTop(3).loss, AnythingButTop(3).margin):
        with pytest.raises(fb.DataError, match="there are 3 classes"):
            call(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))


def test_names_come_back():
    classes = ("walk", "jog")
    for text in ("ab", "ab3", "sa", "sa:1"):
        assert parse(text, classes).name == text
    for wrong in ("", "abc", "ab0", "sa:run", "top3", "ab:1"):
        with pytest.raises(fb.DataError):
            parse(wrong, classes)


def test_impossible_goals_are_refused():
    labels = torch.zeros(2, dtype=torch.long)
    with pytest.raises(fb.DataError, match="only 3 classes"):
        AnythingButTop(3).reference(labels, 3)
    with pytest.raises(fb.DataError, match="no class 9"):
        Specified(9).reference(labels, 3)
    with pytest.raises(fb.DataError, match="labels alone"):
        AnythingButTop(3).achieved_by_labels(labels, labels)
