"""Features, distances and the protocol of a result; knows no method."""
