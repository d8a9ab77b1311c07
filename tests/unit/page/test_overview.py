"""The document of the MCP App: one file that loads nothing, with every script in it once."""

import re

from agent.page.overview import document


def test_the_document_loads_nothing_and_has_no_traces_of_files() -> None:
    text = document()
    assert re.findall(r"^\s*(?:import|export)\b", text, re.MULTILINE) == []
    assert re.findall(r"(?:src|href)=|url\(|https?:", text) == []
    assert text.count("<script") == text.count("</script>") == 1


def test_no_two_scripts_have_a_name_in_common() -> None:
    names = re.findall(r"^(?:async )?(?:function|const|let) (\w+)|^let \[(\w+)", document(), re.MULTILINE)
    found = [first or second for first, second in names]
    assert len(found) > 20
    assert sorted(found) == sorted(set(found))
