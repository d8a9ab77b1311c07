"""Words lose their endings as the published rules have it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.server.stems import stem


@pytest.mark.parametrize(
    ("word", "stemmed"),
    [
        *(("caresses", "caress"), ("ponies", "poni"), ("cats", "cat"), ("caress", "caress")),
        *(("feed", "feed"), ("agreed", "agre"), ("plastered", "plaster"), ("bled", "bled"), ("motoring", "motor")),
        *(("sing", "sing"), ("conflated", "conflat"), ("troubled", "troubl"), ("sized", "size"), ("hopping", "hop")),
        *(("tanned", "tan"), ("falling", "fall"), ("hissing", "hiss"), ("failing", "fail"), ("filing", "file")),
        *(("happy", "happi"), ("sky", "sky"), ("relational", "relat"), ("conditional", "condit")),
        *(("vietnamization", "vietnam"), ("operator", "oper"), ("hopefulness", "hope"), ("sensibiliti", "sensibl")),
        *(("triplicate", "triplic"), ("formative", "form"), ("electrical", "electr"), ("goodness", "good")),
        *(("revival", "reviv"), ("adjustable", "adjust"), ("replacement", "replac"), ("adoption", "adopt")),
        *(("probate", "probat"), ("rate", "rate"), ("cease", "ceas"), ("controll", "control"), ("roll", "roll")),
    ],
)
def test_a_word_has_the_stem_of_the_published_rules(word: str, stemmed: str) -> None:
    assert stem(word) == stemmed


@pytest.mark.parametrize("words", ["forecast forecasts forecasting", "city cities", "translate translation translator"])
def test_forms_of_one_word_have_one_stem(words: str) -> None:
    assert len({stem(word) for word in words.split()}) == 1


@pytest.mark.parametrize("word", ["", "is", "4321s", "präsentationen", "天気", "a" * 41 + "ing"])
def test_what_is_no_english_word_stays_as_it_is(word: str) -> None:
    assert stem(word) == word


@given(st.text(alphabet="abceginorstuyz", max_size=12))
def test_any_word_has_a_stem_that_is_no_longer_than_one_letter_more(word: str) -> None:
    assert len(stem(word)) <= len(word) + 1
