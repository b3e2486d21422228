"""A reader of what is drawn as HTML, for the tests of all that has such a form."""

from html.parser import HTMLParser

VOID = {"meta"}


class Page(HTMLParser):
    """Reads a page, or a piece of one, strictly: what is opened is closed in its order, and nothing is loaded."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.anchors, self.aims = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        facts = dict(attrs)
        assert not [name for name in facts if name.startswith("on") or name in ("src", "srcset")]
        self.anchors += [facts["id"]] if "id" in facts else []
        self.aims += [facts["href"].removeprefix("#")] if "href" in facts else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
