"""What a page of HTML would load, and what it says."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Gathers what a page would load, and the cells of its tables by their id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._table: list[list[str]] | None = None
        self._cell: list[str] | None = None
        self._inside = ""
        self.styles = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self._inside = tag if tag in {"script", "style"} else self._inside
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            if name in found:
                self.links.append((tag, name, found[name] or ""))
        if tag == "table" and "id" in found:
            self._table = self.tables[found["id"]] = []
        if tag == "tr" and self._table is not None:
            self._table.append([])
        if tag in {"td", "th"} and self._table is not None:
            self._cell = []
        self.styles += found.get("style") or ""

    def handle_endtag(self, tag):
        if tag == self._inside:
            self._inside = ""
        if tag in {"td", "th"} and self._cell is not None:
            self._table[-1].append(" ".join(self._cell))
            self._cell = None
        if tag == "table":
            self._table = None

    def handle_data(self, data):
        if self._inside == "style":
            self.styles += data
        elif self._inside != "script":
            self.text += data
            if self._cell is not None and data.strip():
                self._cell.append(data.strip())
