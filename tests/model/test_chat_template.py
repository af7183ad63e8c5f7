"""A chat template that cannot be used is one line."""

import pytest

from sparselora.data.splits import Split
from sparselora.errors import UserError
from sparselora.model.causal_lm import tokenize_completions
from sparselora.model.chat_template import check_user_messages, render_chat
from tests.conftest import word_tokenizer

TEMPLATES = {
    "raises": "{{ raise_exception('no') }}",
    "undefined": "{{ messages[0].content.nothing.at_all }}",
    "syntax": "{% for %}",
    "renders nothing": "{% for m in messages %}{% endfor %}",
    "leaves the user out": "{% for m in messages %}{{ m.role }}{% endfor %}",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_chat_template_that_cannot_be_used_is_one_line(kind: str) -> None:
    tokenizer = word_tokenizer(TEMPLATES[kind])
    rows = Split(["a"], ["the film is"], None, [], ["a"], ["good"])
    with pytest.raises(UserError, match=r"task\.chat_template=true") as raised:
        tokenize_completions(tokenizer, rows, 20, chat_template=True)
    assert "\n" not in str(raised.value)
    assert tokenize_completions(tokenizer, rows, 20, chat_template=False).features


def test_a_template_that_says_what_the_user_says_is_used() -> None:
    tokenizer = word_tokenizer("{% for m in messages %}{{ m.content }} {% endfor %}")
    check_user_messages(tokenizer)
    assert render_chat(tokenizer, [{"role": "user", "content": "a film"}]) == "a film "
