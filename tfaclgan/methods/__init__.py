"""One file a paper: the networks, phases and losses of a method, as data plus pure functions."""
