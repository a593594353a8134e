"""A word that is near to every picture wins nowhere; only what is sure enough is kept."""

from __future__ import annotations

import numpy as np
import pytest

from beyond_text.tagging.scores import choose, debiased, surest


def test_a_word_near_to_every_picture_wins_nowhere_but_where_it_stands_out() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.9, 0.0, 0.1], [1.0, 0.0, 0.0], [0.9, 0.1, 0.1]])
    assert (scores.argmax(axis=1) == 0).all()
    plain = debiased(scores)
    assert plain.mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-9)
    assert plain.std() == pytest.approx(1)
    assert plain.argmax(axis=1)[:3].tolist() == [1, 2, 0]


def test_words_of_which_a_model_knows_little_stay_near_0() -> None:
    scores = np.array([[0.5, 0.1, 0.20], [0.5, 0.3, 0.21], [0.5, 0.2, 0.19]])
    plain = debiased(scores)
    assert plain[:, 0].tolist() == [0, 0, 0]
    assert np.abs(plain[:, 1]).max() == pytest.approx(10 * np.abs(plain[:, 2]).max())
    # One picture cannot stand out.
    assert debiased(np.array([[0.5, 0.1]])).tolist() == [[0, 0]]


def test_the_picture_chooses_among_the_words_of_the_text() -> None:
    scores = np.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    chosen = choose(scores, [[], [1, 2]])
    assert chosen.word.tolist() == [0, 1]
    odds = np.exp(2 * np.array([2.0, 1.0, 0.0]))
    assert chosen.confidence == pytest.approx([odds[0] / odds.sum(), odds[1] / odds[1:].sum()])


@pytest.mark.parametrize(
    ("least", "share", "kept"),
    [
        (0.0, 1.0, [0, 1, 2, 3]),
        (0.5, 1.0, [0, 2, 3]),
        (0.0, 0.5, [0, 2]),
        (0.85, 0.5, [2]),
        (0.0, 0.0, []),
        (1.0, 1.0, []),
    ],
)
def test_what_is_sure_enough_is_kept(least: float, share: float, kept: list[int]) -> None:
    sure = np.array([0.8, 0.2, 0.9, 0.5])
    assert np.flatnonzero(surest(sure, least, share)).tolist() == kept


@pytest.mark.parametrize(
    ("number", "share", "kept"), [(100, 0.29, 29), (100, 0.57, 57), (50, 0.58, 29), (10, 0.19, 1)]
)
def test_a_share_is_of_whole_pictures(number: int, share: float, kept: int) -> None:
    assert surest(np.linspace(0, 1, number), 0.0, share).sum() == kept
