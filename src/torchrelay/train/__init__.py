"""The built-in trainer: an ordinary program on top of `torchrelay.run.Run`, and what it is made of."""
