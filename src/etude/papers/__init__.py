"""The papers: a card each, and for those that are ready a method and a study.

`catalogue` reads the cards without importing any paper, `loading` imports one, `search` finds one by words, `citation` writes
its BibTeX entry and `draft` starts a new one. A paper never imports a paper.
"""
