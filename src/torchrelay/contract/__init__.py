"""What the launcher and the ranks agree on: names, files, codes and models. Imports no torch.

The launcher (`torchrelay_launch`) may import this package and nothing else of `torchrelay`; nothing here imports
either of them.
"""
