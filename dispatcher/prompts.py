"""Does a worker talk about the task it holds?"""

from rapidfuzz import fuzz


def similarity(one: str, other: str, threshold: float) -> float:
    """How much two prompts resemble each other, 0 to 1, white space and case aside.

    The threshold lets the comparison of similar prompts stop early. Two prompts of 10,000 characters that have
    nothing in common cost 3 ms; a thread would not help, for rapidfuzz keeps the GIL.
    """
    one, other = (" ".join(prompt.split()).casefold() for prompt in (one, other))
    return (fuzz.ratio(one, other, score_cutoff=threshold * 100) or fuzz.ratio(one, other)) / 100
