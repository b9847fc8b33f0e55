"""torchrelay: what runs inside each rank. Importing it does not import torch until a name that needs it is used."""

__version__ = "0.1.0"
