"""The result page is one file, and shows texts as texts."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imsave

from monai_hyper.export.page import write_page
from monai_hyper.types import InputError

ROWS = [
    {"case": "a", "class": "liver", "Dice": 0.91, "Dice of the mean mask": 0.5},
    {"case": "b", "class": "liver", "Dice": None, "Dice of the mean mask": 0.25},
]


class _Balance(HTMLParser):
    """Checks that every opened element is closed."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_holds_pictures_in_itself(tmp_path):
    imsave(tmp_path / "p.png", np.zeros((4, 4)))
    written = write_page(tmp_path / "page.html", "Title", ROWS, [("case a", tmp_path / "p.png")])
    page = written.read_text(encoding="utf-8")
    data = re.search(r'src="data:image/png;base64,([^"]+)"', page).group(1)
    assert base64.b64decode(data) == (tmp_path / "p.png").read_bytes()
    assert "http" not in page and str(tmp_path) not in page


def test_every_text_is_escaped(tmp_path):
    imsave(tmp_path / "p.png", np.zeros((4, 4)))
    evil = '<script>"&'
    page = write_page(tmp_path / "page.html", evil, [{evil: evil}], [(evil, tmp_path / "p.png")], {evil: evil})
    assert "<script>" not in page.read_text(encoding="utf-8")
    assert 'alt="&lt;script&gt;&quot;&amp;"' in page.read_text(encoding="utf-8")


def test_elements_are_closed_in_order(tmp_path):
    parser = _Balance()
    parser.feed(write_page(tmp_path / "page.html", "Title", ROWS, summary={"seconds": 1.5}).read_text(encoding="utf-8"))
    assert parser.open == []


def test_numbers_gaps_and_the_best_score(tmp_path):
    page = write_page(tmp_path / "page.html", "Title", ROWS).read_text(encoding="utf-8")
    assert '<td class="number best">0.910</td><td class="number">0.500</td>' in page
    assert '<td class="number">–</td><td class="number">0.250</td>' in page


def test_uneven_rows_and_missing_pictures_are_refused(tmp_path):
    with pytest.raises(InputError, match="row 1 of the table"):
        write_page(tmp_path / "page.html", "Title", [{"a": 1}, {"b": 1}])
    with pytest.raises(InputError, match="cannot be read"):
        write_page(tmp_path / "page.html", "Title", ROWS, [("x", tmp_path / "absent.png")])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="another format"):
        write_page(tmp_path / "page.html", "Title", ROWS, [("x", tmp_path / "text.png")])
    assert not (tmp_path / "page.html").exists()
