"""Hits in a notebook: HTML with small thumbnails, in which the text of data files is only text."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pipeline.search import Answer, Hit
from pipeline.search.html import MAX_CARDS, THUMBNAIL

EVIL = '<script>alert(1)</script> & "quotes" \x1b[31m\u202e'


class Parsed(HTMLParser):
    """The elements and the text of a fragment; fails if an element is not closed."""

    def __init__(self, fragment):
        super().__init__()
        self.tags, self.images, self.text, self.open = [], [], "", []
        self.feed(fragment)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def path(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (450, 600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def test_hit_has_a_thumbnail_score_probability_and_captions(path):
    hit = Hit("a.jpg", 0.8127, path, ("A dog runs.", "A brown dog.", "The third one."), probability=0.345)
    shown = Parsed(hit._repr_html_())
    assert [word in shown.text for word in ("0.813", "34%", "a.jpg", "A dog runs.", "A brown dog.")] == [True] * 5
    assert "third" not in shown.text
    (image,) = shown.images
    start, content = image["src"].split(",")
    assert start == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (picture.format, picture.size) == ("JPEG", THUMBNAIL)


def test_texts_of_data_files_are_escaped_and_shortened(path, tmp_path):
    hit = Hit(EVIL, 0.5, path, (EVIL, "x" * 100_000))
    for answer in (Answer((hit,), note=EVIL), Answer((), weak=(hit,)), hit):
        fragment = answer._repr_html_()
        shown = Parsed(fragment)
        assert set(shown.tags) <= {"div", "img", "b", "code", "br", "p"}
        assert "<script>alert(1)" in shown.text
        assert not {"\x1b", "\u202e"} & set(fragment)
        assert len(fragment) < 60_000
    assert not Parsed(Hit("a", 0.5, tmp_path, ())._repr_html_()).images, "its file cannot be read"
    assert not Parsed(Hit("a", 0.5, tmp_path / "no.jpg", ())._repr_html_()).images


def test_answer_shows_a_bounded_number_of_hits(path):
    hits = tuple(Hit(f"hit-{number}", 0.5, path, ()) for number in range(MAX_CARDS + 30))
    fragment = Answer(hits)._repr_html_()
    shown = Parsed(fragment)
    assert len(shown.images) == MAX_CARDS
    assert "30 more hits are not shown." in shown.text
    assert len(fragment) < 1_500_000, "of noise, which no JPEG makes smaller"
    weak = Parsed(Answer(hits[:2], weak=hits[2:3])._repr_html_())
    assert (weak.text.count("weak"), weak.text.index("weak") > weak.text.index("hit-1")) == (1, True)
    assert Parsed(Answer(())._repr_html_()).text == "There are no hits."


def test_answer_is_the_sequence_of_its_hits(path):
    hits = tuple(Hit(f"hit-{number}", 0.5, path, ()) for number in range(3))
    answer = Answer(hits, weak=(Hit("weak", 0.1, path, ()),))
    assert (list(answer), len(answer), answer[0], answer[1:]) == (list(hits), 3, hits[0], hits[1:])
