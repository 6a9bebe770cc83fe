"""How RISE does an arena's work: not where one answer is asked for."""

improvement = "it teaches to answer again after a failure, over five turns; here one answer is judged"
