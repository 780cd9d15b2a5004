"""Where raw text comes from: one class a kind of source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from trivium.recipe.base import Name, Strict, how
from trivium.recipe.units import Count, Seconds

ANY = frozenset({"documents", "conversations", "preferences", "feedback"})


class SourceBase(Strict):
    kind: str
    formats: ClassVar[frozenset[str]] = frozenset({"documents"})
    """What the source can be read as."""
    characters: ClassVar[Mapping[str, float]] = {}
    """Of an item, by format, where that is known before anything is read: what a plan counts with."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of the mix (of characters for documents, of items otherwise); needed if there are several."""
    license: str | None = None
    """The licence the text is used under; None takes what the source itself declares."""
    origin: str | None = None
    """Where the text comes from; None takes what the source itself declares."""

    @classmethod
    def implementation(cls) -> Any:
        """What reads it: a subclass of `trivium.corpus.readers.Source`. Given by the models of plug-ins."""
        raise NotImplementedError


class PythonDocs(SourceBase):
    """The documentation inside every Python: docstrings, pydoc topics, sources of the standard library."""

    kind: Literal["python-docs"]
    formats: ClassVar[frozenset[str]] = frozenset({"documents", "conversations", "preferences"})
    docstrings: bool = True
    """Documents only: the docstrings, one document each."""
    sources: bool = True
    """Documents only: also read the modules' source code (their docstrings are separate documents)."""


class Reasoning(SourceBase):
    """Tasks with worked solutions, drawn from reasoning-gym and checked by its own scorers."""

    kind: Literal["reasoning"]
    formats: ClassVar[frozenset[str]] = frozenset({"documents", "conversations", "preferences"})
    tasks: list[str] = ["chain_sum", "spell_backward", "letter_counting", "number_sorting"]
    """reasoning-gym data sets that Trivium has worked solutions for (`trivium.demo.reasoning.TASKS`)."""
    style: Literal["worked", "direct", "both"] = "worked"
    """Replies with the working, with the answer alone, or one half of each."""


class Primer(SourceBase):
    """What a first model can learn in minutes: the most used names of the standard library in many phrasings, sums, sorting, who
    it is, and to say that it does not know others. Held out are phrasings of names that are taught, and names that are not."""

    kind: Literal["primer"]
    formats: ClassVar[frozenset[str]] = frozenset({"documents", "conversations", "preferences"})
    characters: ClassVar[Mapping[str, float]] = {"conversations": 220, "preferences": 280}


class Refusals(SourceBase):
    """Harmful requests with kind refusals, harmless look-alikes with answers: a small list of our own."""

    kind: Literal["refusals"]
    formats: ClassVar[frozenset[str]] = frozenset({"conversations", "preferences"})
    characters: ClassVar[Mapping[str, float]] = {"conversations": 160, "preferences": 180}


class Text(SourceBase):
    """Plain text files: one document per file."""

    kind: Literal["text"]
    path: str
    """A file, a folder (read recursively) or a glob, relative to the recipe, or any fsspec URL; files of any ending, as they are
    or packed (.gz, .zst, .bz2, .xz, .br)."""


class Jsonl(SourceBase):
    """One JSON object per line: `text`, `messages`, `prompt`/`completion`, `prompt`/`chosen`/`rejected` or
    `prompt`/`completion`/`label`."""

    kind: Literal["jsonl"]
    formats: ClassVar[frozenset[str]] = ANY
    path: str
    """A file, a folder or a glob, relative to the recipe, or any fsspec URL. Of a folder: .jsonl, .ndjson and .json, plain or
    packed (.gz, .zst, .bz2, .xz, .br), in upper or lower case."""
    max_bad_lines: Annotated[int, Field(ge=0)] | None = how(None)
    """Malformed lines that are counted, told and left out before the stage stops. null: the stage's `max_dead`."""


class Html(SourceBase):
    """Pages of HTML in folders: one document per page, its main text."""

    kind: Literal["html"]
    path: str
    """A file, a folder (read recursively), a glob or an fsspec URL. Of a folder: .html, .htm, .xhtml and .xht, plain or packed
    (.gz, .zst, .bz2, .xz, .br), in upper or lower case."""


class Notes(SourceBase):
    """A folder of Markdown, plain text and HTML: one document per file, of a page its main text."""

    kind: Literal["notes"]
    path: str
    """A file, a folder (read recursively), a glob or an fsspec URL. Of a folder: .md, .markdown, .txt, .text, .rst, .html,
    .htm, .xhtml and .xht, plain or packed (.gz, .zst, .bz2, .xz, .br), in upper or lower case."""


class Warc(SourceBase):
    """WARC and ARC files, as crawlers and Common Crawl write them: one document per page, its main text."""

    kind: Literal["warc"]
    path: str
    """A file, a folder, a glob or an fsspec URL. Of a folder: .warc, .wet and .arc, plain or packed (.gz, .zst, .bz2, .xz, .br),
    in upper or lower case."""


class Parquet(SourceBase):
    """Parquet files: one document per row of a text column; of other formats the columns of `jsonl`."""

    kind: Literal["parquet"]
    formats: ClassVar[frozenset[str]] = ANY
    path: str
    """A file, a folder, a glob or an fsspec URL. Of a folder: .parquet and .pq, in upper or lower case."""
    column: str = "text"
    """Documents: the column of strings that holds the text; `url`, `id`, `title`, `language`, `license` and `meta` are kept."""


class Books(SourceBase):
    """EPUB and PDF: one document per chapter, with the book's title and author."""

    kind: Literal["books"]
    path: str
    """A file, a folder, a glob or an fsspec URL. Of a folder: .epub and .pdf, in upper or lower case; alone or packed (.gz, .zst,
    .bz2, .xz, .br)."""
    min_chapter: Annotated[int, Field(ge=0)] = 200
    """Characters below which a chapter (a title page, a table of contents) is left out."""


PERMISSIVE = [
    *("0BSD", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0"),
    *(
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "NCSA",
        "PSF-2.0",
        "PostgreSQL",
        "Python-2.0",
        "UPL-1.0",
        "Unlicense",
    ),
    *("WTFPL", "Zlib"),
]
"""Licences (SPDX) that ask for no more than attribution."""


class Code(SourceBase):
    """Source code: folders, git checkouts, tar and zip archives; one document per file, secrets removed."""

    kind: Literal["code"]
    path: str
    """A folder, a file, an archive (.zip, .whl, .jar, .tar, .tar.gz, .tgz, .tar.zst, .tar.xz, .txz, .tar.bz2, .tbz2, .crate,
    .gem; in upper or lower case), a glob or an fsspec URL."""
    licenses: list[str] | None = PERMISSIVE
    """Licences (SPDX) that are read, found in each file's header or the nearest licence file. null: any, also none."""
    languages: list[str] | None = None
    """Languages by Pygments' names (Python, C++, Markdown), any case. null: every one that it knows."""
    generated: bool = False
    """Also read generated, minified and vendored files."""
    max_file: Count = 1_000_000
    """Bytes above which a file is left out."""


class HuggingFace(SourceBase):
    """A data set through the `datasets` library, streamed."""

    kind: Literal["huggingface"]
    formats: ClassVar[frozenset[str]] = ANY
    name: str
    """A folder written by `save_to_disk`, a folder or file of Parquet or JSON, or a data set's name on the hub."""
    config: str | None = None
    """Configuration of a data set on the hub."""
    split: str = "train"
    """Which split is read."""
    column: str = "text"
    """Documents: the column that holds the text."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Commit of a data set on the hub; needed there, so that the same recipe reads the same data."""


class Synthetic(SourceBase):
    """What a `synthesize` stage (or another data stage) of this recipe made, with its licences and origins."""

    kind: Literal["synthetic"]
    references: ClassVar[tuple[str, ...]] = ("stage",)
    formats: ClassVar[frozenset[str]] = ANY
    stage: Name
    """The stage whose artifact is read."""


class Crawl(SourceBase):
    """A polite crawl: obeys robots.txt, keeps to its domains, waits between requests, writes WARC and reads that.

    The pages are fetched once and kept in `folder`, whatever else changes in the recipe; to crawl anew, raise `round`.
    """

    kind: Literal["crawl"]
    start: Annotated[list[Annotated[str, Field(pattern=r"^https?://[^/]+")]], Field(min_length=1)]
    """URLs to begin with. Only their ports are visited (80 and 443 count as one)."""
    domains: list[str] = []
    """Hosts that may be visited, with their subdomains. Empty: the hosts of `start`, without subdomains."""
    depth: Annotated[int, Field(ge=0)] = 3
    """Links followed from `start`."""
    max_pages: Annotated[Count, Field(ge=1)] = 10_000
    """Pages fetched at most."""
    delay: Seconds = how(1.0)
    """Least time between two requests to one host; a longer Crawl-delay in robots.txt wins."""
    agent: Annotated[str, Field(pattern=r"^[A-Za-z][\w.-]*.*(https?://\S+|\S+@\S+)")] = how(...)
    """How the crawler introduces itself: a name, and a URL or e-mail address at which its owner can be reached, such as
    `mybot (+https://my.site/bot)`. robots.txt is read for the name."""
    folder: str = how("crawls")
    """Folder, relative to the recipe, in which the pages are kept as WARC files."""
    private: bool = False
    """Visits addresses that are not public too (loopback, private networks, link-local), by number or by name."""
    round: Annotated[int, Field(ge=1)] = 1
    """Part of the crawl's identity: another number fetches everything again."""


class Table(SourceBase):
    """Rows with the columns of `jsonl`, from JSON lines, Parquet or a folder that the `datasets` library saved."""

    kind: Literal["table"]
    formats: ClassVar[frozenset[str]] = frozenset({"conversations", "preferences", "feedback"})
    path: str
    """A file, a folder or a glob, relative to the recipe; or one split of what `save_to_disk` wrote. Of a folder: .jsonl, .ndjson
    and .json, plain or packed (.gz, .zst, .bz2, .xz, .br), .parquet and .pq, in upper or lower case."""
    max_bad_lines: Annotated[int, Field(ge=0)] = how(10)
    """Malformed rows that are counted, told and left out before the stage stops."""


OWN: tuple[type[SourceBase], ...] = (
    *(
        PythonDocs,
        Primer,
        Reasoning,
        Refusals,
        Text,
        Jsonl,
        Table,
        Html,
        Notes,
        Warc,
        Parquet,
        Books,
        Code,
        HuggingFace,
    ),
    *(Synthetic, Crawl),
)
"""A new kind is one more here, and one row in `corpus/readers`."""
