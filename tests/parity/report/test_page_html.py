"""The builder escapes whatever it is given, wherever it is put."""

import json

from parity.report.page_html import Html, cell, data_block, join, table, tag, text


def test_text_and_attributes_are_escaped_and_html_is_not_escaped_twice() -> None:
    inner = tag("b", {"title": "\"'<>&"}, "<i>&amp;")
    assert inner == '<b title="&quot;&#x27;&lt;&gt;&amp;">&lt;i&gt;&amp;amp;</b>'
    assert tag("p", {}, inner, None, ["x", Html("<br/>")]) == f"<p>{inner}x<br/></p>"
    assert text("a\x00b\u202ec\nd") == "a\\x00b\\u202ec\nd"


def test_attributes_may_be_absent_or_bare_and_void_elements_close_themselves() -> None:
    assert tag("input", {"checked": True, "disabled": False, "value": 0, "name": None}) == '<input checked value="0"/>'


def test_data_reads_back_as_it_was_and_cannot_end_its_block() -> None:
    data = {"</script>": ["<!--", "&", "\u2028", 1.5, float("inf")]}
    block = data_block("x", data)
    inside = block.removeprefix('<script type="application/json" id="x">').removesuffix("</script>")
    assert not set("<>&\u2028") & set(inside)
    assert json.loads(inside) == {"</script>": ["<!--", "&", "\u2028", 1.5, "inf"]}


def test_tables_name_their_columns_for_narrow_screens() -> None:
    row = tag("tr", {}, cell("a<b", "1", kind="number"))
    found = table(["a<b"], [row])
    assert '<th scope="col">a&lt;b</th>' in found and '<td data-label="a&lt;b" class="number">1</td>' in found
    assert join(None) == ""
