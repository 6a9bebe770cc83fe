"""Questions that cross papers: every method whose card names an arena, on the same work at the same ledger, ranked.

    etude arena                 what there is, who enters, and who does not and why
    etude arena curricula       run it; recorded, plotted and verified as a paper's study is

One file a question. Members come from the catalogue's cards, those of other packages and files included.
"""

NAMES = ("curricula", "growth", "improvement", "recursion")
PREFIX = "arena-"
"""How an arena's slug begins, under which its evidence is kept."""
LOCATE = "etude.arenas.arena:study_of"
SEPARATOR = "\n"
"""In the word that `LOCATE` is given, between the arena and the files that enter beside the catalogue's papers."""
