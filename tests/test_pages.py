"""Pages that stand alone: nothing that stands in their data leaves its place, and what they carry along is licensed."""

import json
import re
from pathlib import Path

import pytest

import superluigi
from superluigi.pictures import pages

ASSETS = Path(superluigi.__file__).parent / "pictures" / "assets"
HOSTILE = "</script><script>alert(1)</script><!--<script>\u2028\u2029\ud800&\"'"


def test_data_are_read_back_as_they_were_and_end_no_script() -> None:
    page = pages.page(HOSTILE, body="<p></p>", data={HOSTILE: [HOSTILE, 1, None]})

    (told,) = re.findall(r"const DATA = (.*);</script>", page)
    assert json.loads(told) == {HOSTILE: [HOSTILE, 1, None]}
    assert page.count("<script>") == page.count("</script>") == 1
    page.encode()


def test_a_page_may_ask_for_nothing() -> None:
    page = pages.page("title", body="", data=0)

    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("path", sorted(ASSETS.glob("*.min.js")), ids=lambda path: path.name)
def test_what_others_have_written_is_told_with_version_source_and_licence(path: Path) -> None:
    notice = (ASSETS / "NOTICE.md").read_text(encoding="utf-8")

    (row,) = re.findall(rf"^\| `{re.escape(path.name)}` \|(.*)$", notice, flags=re.MULTILINE)
    assert re.search(r"\| \d+\.\d+\.\d+ \|", row)
    assert "https://" in row
    licences = re.findall(r"`(LICENSE-[^`]*)`", row)
    assert licences
    assert all((ASSETS / name).is_file() for name in licences)
