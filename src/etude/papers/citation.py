"""BibTeX entries of the papers and of etude itself."""

from __future__ import annotations

from etude.papers.catalogue import Card

_SPECIAL = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "~": r"\textasciitilde{}", "^": r"\^{}"}


def escape(text: str) -> str:
    """Text with BibTeX's special characters escaped and its braces dropped."""
    return "".join(_SPECIAL.get(c, c) for c in text if c not in "{}")


def entry(kind: str, key: str, fields: dict[str, str]) -> str:
    """One BibTeX entry; empty fields are left out. `url` and `author` stand as they are."""
    kept = {k: v if k in ("url", "author") else escape(v) for k, v in fields.items() if v}
    kept = {k: f"{{{v}}}" if k == "title" else v for k, v in kept.items()}  # inner braces keep the title's capitals
    width = max(map(len, kept))
    return f"@{kind}{{{key},\n" + ",\n".join(f"  {k:<{width}} = {{{v}}}" for k, v in kept.items()) + "\n}"


def bibtex(card: Card) -> str:
    """The paper's entry, keyed by its slug."""
    return entry(
        "misc",
        card.slug,
        {
            "title": card.title,
            "author": " and ".join(card.authors),
            "year": str(card.year or ""),
            "eprint": card.arxiv,
            "archivePrefix": "arXiv" if card.arxiv else "",
            "url": f"https://arxiv.org/abs/{card.arxiv}" if card.arxiv else "",
        },
    )


def bibtex_of_etude(version: str, note: str = "") -> str:
    """etude's own entry; `note` says which run it stands for."""
    return entry("software", "etude", {"title": "etude", "author": "{The etude developers}", "version": version, "note": note})
