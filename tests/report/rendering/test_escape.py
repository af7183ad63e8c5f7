import html
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from sparselora.report.rendering.escape import one_line, plain_markdown


@settings(deadline=None)
@given(st.text())
def test_a_line_stays_one(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1
    assert one_line(text).split() == text.split()


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab<>&|*_[]`#~{}\\ \n")))
def test_no_character_of_markdown_or_html_is_left(text: str) -> None:
    escaped = plain_markdown(text)
    assert not set("<>") & set(escaped)
    assert re.search(r"(?<!\\)(?:\\\\)*[|*_\[\]`#~{}]", escaped) is None
    # Nothing is lost on the way.
    assert html.unescape(re.sub(r"\\(.)", r"\1", escaped)) == one_line(text)
