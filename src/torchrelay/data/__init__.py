"""The global order of samples, its division over ranks, the loaders, and two small data sets.

Positions, not indices, are what training counts in: an epoch has the positions 0 to n-1, `order` says which sample lies
at each, `plan` which of them a step and a rank take, `loader` brings them, and `randomness` ties what a sample draws
to the sample itself.
"""
