"""Statistics of a map as small states: add tiles of it, read the result.

Each state belongs to a group of G heads of one batch row. `weights` is [G, t, Lk], not yet divided
by its row sums; `share` is [G, t], one over them (0 for a row that attends nowhere).
"""
