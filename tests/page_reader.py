"""A reader of the HTML pages that are made: it checks what every page must keep to, and collects what stands in it."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Text, tags and addresses of a page. AssertionError where tags do not close, an id comes twice, a picture, a player, a
    slider or a field has no name, or something is fetched from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.addresses: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        ids = Counter(fields["id"] for _, fields in self.tags if "id" in fields)
        assert [name for name, count in ids.items() if count > 1] == []
        assert [address[:80] for _, address in self.addresses if not address.startswith("data:")] == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = {name: value or "" for name, value in attrs}
        assert len(fields) == len(attrs), f"{tag}: an attribute comes twice"
        assert not [name for name in fields if name.startswith("on")], f"{tag}: script in an attribute"
        if tag == "img":  # a picture inside a slider is named by it
            assert "alt" in fields and (fields["alt"] or self.tags[-1][1].get("role") == "slider"), (
                "a picture without a name"
            )
        if tag == "audio" or fields.get("role") in ("slider", "region", "group"):
            assert fields.get("aria-label"), f"{tag}: without a name"
        if tag == "input":
            assert "label" in self.open or fields.get("aria-label"), "a field without a name"
        if fields.get("role") in ("slider", "region"):
            assert fields.get("tabindex") == "0", f"{tag}: out of reach of keys"
        if tag not in VOID:
            self.open.append(tag)
        self.tags.append((tag, fields))
        self.addresses += [
            (tag, value) for name, value in fields.items() if name in ("src", "href", "srcset", "action")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def data(self, tag: str) -> Iterator[bytes]:
        """What the addresses of one kind of tag hold."""
        for name, address in self.addresses:
            if name == tag:
                yield base64.b64decode(address.partition("base64,")[2], validate=True)
